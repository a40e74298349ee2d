"""Send notebook cells, functions, containers and whole notebooks to HTCondor, and get everything back."""

__version__ = "0.1.0"
