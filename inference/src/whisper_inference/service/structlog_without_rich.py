"""structlog without rich, whose 3 MB only colour tracebacks; the first import of structlog has to be this one."""

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


_import_without("rich", module="structlog")

import structlog  # noqa: E402

__all__ = ["structlog"]
