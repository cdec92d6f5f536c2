"""A transcription server whose idle model costs nothing: the model lives in a process of its own, and only there."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import cast


def _import_without(hidden: str, *, module: str) -> None:
    """Import a module as if a package that it can do without were not installed."""
    if hidden in sys.modules:
        return
    # None makes an import fail (the import system, "The module cache").
    modules = cast("dict[str, object]", sys.modules)
    modules[hidden] = None
    try:
        import_module(module)
    finally:
        del modules[hidden]


# rich is for tracebacks in colour. A server would keep its 3 MB for ever.
_import_without("rich", module="structlog")
