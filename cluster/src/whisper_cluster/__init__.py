"""WhisperModels in a Kubernetes cluster: the API server, its objects, and the servers in the pods."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec


def _skip_init(name: str) -> None:
    """Let modules of a package be imported without what its `__init__.py` imports."""
    if name in sys.modules:
        return
    parent, _, _ = name.rpartition(".")
    spec = PathFinder.find_spec(name, sys.modules[parent].__path__ if parent else None)
    if spec is not None:
        sys.modules[name] = module_from_spec(spec)
        if parent:
            setattr(sys.modules[parent], name.rpartition(".")[2], sys.modules[name])


# Only the asynchronous half of the official client is used. Its package imports the synchronous half too: 14 MB.
_skip_init("kubernetes")
_skip_init("kubernetes.aio")
