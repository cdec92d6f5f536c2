"""Defers the parts of torch and whisper that transcribing never runs.

`import torch` executes some 1,400 modules, most of them for compilation, export, quantisation and training. Modules
listed here are created but executed only when one of their attributes is first read. Nothing is removed: code that
needs such a module later gets the real one. importlib.util.LazyLoader does not work here: it executes a module on
*any* attribute read, and inspect.getmodule() reads `__file__` of everything in sys.modules while torch registers its
operators.
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

Stub = Callable[..., object]


def forward(module: str, name: str) -> Stub:
    """Return a function that calls `module.name`, executing the module at the first call."""

    def call(*args: object, **options: object) -> object:
        return getattr(importlib.import_module(module), name).__call__(*args, **options)

    return call


@dataclass(frozen=True, slots=True)
class _LazyJit:
    """A function that numba compiles at its first call."""

    function: FunctionType
    options: Mapping[str, object]

    def __call__(self, *args: object) -> object:
        # Compiled functions look each other up in their module, so compile all of the module's at once.
        names = cast("dict[str, object]", vars(sys.modules[self.function.__module__]))
        numba = _execute(sys.modules["numba"])
        for name, value in list(names.items()):
            if isinstance(value, _LazyJit):
                names[name] = _compile(numba, value)
        return cast("Stub", names[self.function.__name__])(*args)


def _compile(numba: ModuleType, pending: _LazyJit) -> object:
    """Compile a function, cached in NUMBA_CACHE_DIR: compiling takes 5 s, and each load is a new process."""
    try:
        return numba.jit(cache=True, **pending.options)(pending.function)
    except RuntimeError:
        # numba raises on decoration if it finds no writable cache folder.
        return numba.jit(**pending.options)(pending.function)


def lazy_jit(**options: object) -> Callable[[FunctionType], _LazyJit]:
    """Replace numba.jit: compile at the first call (word timestamps only), not while whisper is imported."""
    return partial(_LazyJit, options=options)


DEFERRED_MODULES: Mapping[str, Mapping[str, Stub]] = {
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
    # nn.Module calls is_compiling() on every forward pass; nothing compiles until torch.compiler has been executed.
    "torch.compiler": {"is_compiling": lambda: False, "is_dynamo_compiling": lambda: False},
    "torch.nested": {},
    "torch.quasirandom": {},
    "torch.profiler": {},
    # Whisper compiles two functions of its word alignment with it.
    "numba": {"jit": lazy_jit},
}
"""Module name → stubs for the names that other modules import from it while they are imported themselves."""

BLOCKED_MODULES = frozenset({"cuda.bindings"})
"""Reported as not installed, to save 7 MB of extensions: torch needs them for green contexts and its profiler only."""


class _DeferredModule(ModuleType):
    """A module that has not been executed; reading a missing attribute executes it."""

    def __getattr__(self, name: str) -> object:
        # The import machinery and inspect probe for dunder names, which must not execute the module.
        if name.startswith("__"):
            raise AttributeError(name)
        stubs = cast("_DeferringLoader", self.__loader__).stubs
        return stubs[name] if name in stubs else getattr(_execute(self), name)


def _execute(module: ModuleType) -> ModuleType:
    """Execute a deferred module; return one that was executed already unchanged."""
    loader = module.__loader__
    if isinstance(module, _DeferredModule) and isinstance(loader, _DeferringLoader):
        setattr(module, "__class__", ModuleType)  # noqa: B010 (as above)
        if module.__name__.startswith("torch."):
            # torch.fx.passes and torch.fx.experimental.proxy_tensor import each other: only this order works.
            importlib.import_module("torch.fx.passes")
        loader.real.exec_module(module)
    return module


class _DeferringLoader:
    """Creates a module without executing it."""

    def __init__(self, real: importlib.machinery.SourceFileLoader, *, stubs: Mapping[str, Stub]) -> None:
        self.real = real
        self.stubs = stubs

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, "__class__", _DeferredModule)  # noqa: B010 (a checker cannot follow an assignment of the class)

    def __getattr__(self, name: str) -> object:
        # linecache and inspect call get_source and similar methods of the loader.
        return getattr(self.real, name)


class _DeferringFinder:
    """Finds the deferred modules before the regular finders and gives them a deferring loader."""

    def __init__(self, modules: Mapping[str, Mapping[str, Stub]]) -> None:
        self._modules = modules

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name in BLOCKED_MODULES:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
        if name not in self._modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = cast(
                "importlib.machinery.SourceFileLoader",
                _DeferringLoader(spec.loader, stubs=self._modules[name]),
            )
        return spec


@contextmanager
def deferred_imports(modules: Mapping[str, Mapping[str, Stub]] = DEFERRED_MODULES) -> Generator[None]:
    """Defer the listed modules for all imports inside the block."""
    finder = _DeferringFinder(modules)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
