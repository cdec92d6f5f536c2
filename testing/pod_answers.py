"""Answers of a pod's server, with every field that the contract requires; tests add what they are about."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_DONE: Json = {"success": True, "message": "Done.", "model_name": "base"}


def status(state: str = "Loaded", **fields: Any) -> Json:
    """Return the answer of an idle server to GET /model/status."""
    memory = {"vram_mb": 0.0, "ram_mb": 40.0, "cuda_available": False}
    required = {"loaded": state == "Loaded", "state": state, "model_name": "base", "memory": memory}
    return {**required, "idle_seconds": 0.0, "in_flight": 0, "queued": 0, **fields}


def loaded(**fields: Any) -> Json:
    """Return the answer to POST /model/load."""
    return {**_DONE, **fields}


def unloaded(**fields: Any) -> Json:
    """Return the answer to POST /model/unload."""
    return {**_DONE, **fields}
