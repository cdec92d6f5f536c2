"""Put off the parts of torch and whisper that transcribing never runs.

`import torch` executes some 1,400 modules, most of them for compilation, export, quantisation and training. Here the
listed ones are created but not executed: the first attribute that somebody reads runs them. Nothing is removed, so
whatever needs one of them later gets the real thing, only then. importlib.util.LazyLoader does not serve: it runs a
module on *any* attribute read, and inspect.getmodule() reads `__file__` of everything in sys.modules while torch
registers its operators.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FunctionType, ModuleType
from typing import cast

StandIn = Callable[..., object]


def forward(module: str, name: str) -> StandIn:
    """Return a function that calls `module.name`, running the module at the first call."""

    def call(*args: object, **options: object) -> object:
        return getattr(importlib.import_module(module), name).__call__(*args, **options)

    return call


@dataclass(frozen=True, slots=True)
class _JitWhenCalled:
    """A function that numba will compile at its first call."""

    function: FunctionType
    options: Mapping[str, object]

    def __call__(self, *args: object) -> object:
        # Compiled functions call one another by their module's names, so all of the module are compiled at once.
        names = cast("dict[str, object]", vars(sys.modules[self.function.__module__]))
        numba = _run(sys.modules["numba"])
        for name, value in list(names.items()):
            if isinstance(value, _JitWhenCalled):
                names[name] = _compiled_once(numba, value)
        return cast("StandIn", names[self.function.__name__])(*args)


def _compiled_once(numba: ModuleType, pending: _JitWhenCalled) -> object:
    """Return the compiled function, kept in NUMBA_CACHE_DIR: compiling takes 5 s, and each load is a new process."""
    try:
        return numba.jit(cache=True, **pending.options)(pending.function)
    except RuntimeError:
        # No folder that can be written to: numba says so while it decorates.
        return numba.jit(**pending.options)(pending.function)


def jit_when_called(**options: object) -> Callable[[FunctionType], _JitWhenCalled]:
    """Stand in for numba.jit: compile at the first call (word timestamps only), not while whisper is imported."""
    return partial(_JitWhenCalled, options=options)


NEEDLESS: Mapping[str, Mapping[str, StandIn]] = {
    # Fake-tensor and symbolic kernels, for tracing only: 0.8 s of an import of 2.5 s.
    "torch._meta_registrations": {},
    "torch.distributed._meta_registrations": {},
    "torch.export": {},
    "torch.func": {"vmap": forward("torch.func", "vmap")},
    "torch._higher_order_ops": {
        "cond": forward("torch._higher_order_ops", "cond"),
        "while_loop": forward("torch._higher_order_ops", "while_loop"),
    },
    "torch._lobpcg": {"lobpcg": forward("torch._lobpcg", "lobpcg")},
    "torch.quantization": {},
    "torch.masked": {},
    "torch.testing": {},
    # Every module call asks is_compiling(); as long as nobody has run torch.compiler, nothing is.
    "torch.compiler": {"is_compiling": lambda: False, "is_dynamo_compiling": lambda: False},
    "torch.nested": {},
    "torch.quasirandom": {},
    "torch.profiler": {},
    # Whisper compiles two functions of its word aligner with it.
    "numba": {"jit": jit_when_called},
}
"""Module name → stand-ins for the names that others import from it at their own import."""

ABSENT = frozenset({"cuda.bindings"})
"""Taken for not installed, which torch allows: for green contexts and its profiler only. 7 MB of extensions."""


class _Deferred(ModuleType):
    """A module whose code has not run; reading a name that it lacks runs it."""

    def __getattr__(self, name: str) -> object:
        # Import machinery and inspect probe for dunders; those must not run anything.
        if name.startswith("__"):
            raise AttributeError(name)
        stand_ins = cast("_DeferringLoader", self.__loader__).stand_ins
        return stand_ins[name] if name in stand_ins else getattr(_run(self), name)


def _run(module: ModuleType) -> ModuleType:
    """Execute a module that was put off; one that has run already is returned as it is."""
    loader = module.__loader__
    if isinstance(module, _Deferred) and isinstance(loader, _DeferringLoader):
        setattr(module, "__class__", ModuleType)  # noqa: B010 (as above)
        if module.__name__.startswith("torch."):
            # torch.fx.passes and torch.fx.experimental.proxy_tensor import each other: only this order works.
            importlib.import_module("torch.fx.passes")
        loader.real.exec_module(module)
    return module


class _DeferringLoader:
    """Creates the module, does not execute it."""

    def __init__(self, real: importlib.machinery.SourceFileLoader, *, stand_ins: Mapping[str, StandIn]) -> None:
        self.real = real
        self.stand_ins = stand_ins

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, "__class__", _Deferred)  # noqa: B010 (a checker cannot follow an assignment of the class)

    def __getattr__(self, name: str) -> object:
        # get_source and its kin: linecache and inspect ask the loader.
        return getattr(self.real, name)


class _DeferringFinder:
    """Finds the modules of NEEDLESS first and gives them a loader that waits."""

    def __init__(self, needless: Mapping[str, Mapping[str, StandIn]]) -> None:
        self._needless = needless

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name in ABSENT:
            raise ModuleNotFoundError(f"{name} is left out", name=name)
        if name not in self._needless:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = cast(
                "importlib.machinery.SourceFileLoader",
                _DeferringLoader(spec.loader, stand_ins=self._needless[name]),
            )
        return spec


@contextmanager
def needless_put_off(needless: Mapping[str, Mapping[str, StandIn]] = NEEDLESS) -> Generator[None]:
    """Import inside this block what may leave the needless modules for later."""
    finder = _DeferringFinder(needless)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
