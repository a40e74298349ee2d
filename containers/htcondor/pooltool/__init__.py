"""Pools of containers for tests, the demo and trying things out. Standard library only: it runs before anything is installed."""
