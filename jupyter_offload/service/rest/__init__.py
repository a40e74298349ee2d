"""The REST API over any `OffloadService`; the same logic serves the loopback listener and the Jupyter server."""
