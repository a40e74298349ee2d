"""The Jupyter server extension: the same REST API as the loopback listener, for the server's own users."""

from __future__ import annotations

__all__ = ["_jupyter_server_extension_points"]


def _jupyter_server_extension_points() -> list[dict[str, object]]:
    """Tell Jupyter Server what to load (Jupyter Server documentation, "Authoring extensions")."""
    from jupyter_offload.server.app import OffloadApp

    return [{"module": "jupyter_offload.server", "app": OffloadApp}]
