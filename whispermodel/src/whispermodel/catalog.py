"""The Whisper models that exist: their names, what runs them, and what they weigh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Engine(StrEnum):
    """A library that runs Whisper models."""

    OPENAI_WHISPER = "openai-whisper"
    FASTER_WHISPER = "faster-whisper"


class Device(StrEnum):
    """Where a model computes."""

    CUDA = "cuda"
    CPU = "cpu"


class ComputeType(StrEnum):
    """In what numbers a model computes, and so what its weights take."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"

    @property
    def bytes_per_parameter(self) -> int:
        """Bytes of memory for one weight."""
        return _BYTES_PER_PARAMETER[self]


@dataclass(frozen=True, slots=True)
class Size:
    """One model as published.

    parameters: every number in the checkpoint, so fixed positions count too. Counted from the dimensions of
    whisper.model.Whisper (openai-whisper 20250625) and, for distil-*, of the published Hugging Face configurations.
    """

    name: str
    parameters: int
    english_only: bool = False
    engines: frozenset[Engine] = frozenset(Engine)

    def weight_bytes(self, compute_type: ComputeType) -> int:
        """Return bytes of memory for the weights alone; activations, caches and the library come on top."""
        return self.parameters * compute_type.bytes_per_parameter


class UnknownSize(ValueError):
    """There is no such model; the message lists those that there are."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no Whisper model {name!r}; choose one of: {', '.join(names())}")


_BYTES_PER_PARAMETER = MappingProxyType({ComputeType.FLOAT32: 4, ComputeType.FLOAT16: 2, ComputeType.INT8: 1})
_DISTILLED = frozenset({Engine.FASTER_WHISPER})

SIZES: Mapping[str, Size] = MappingProxyType(
    {
        size.name: size
        for size in (
            Size("tiny", 37_760_640),
            Size("tiny.en", 37_760_256, english_only=True),
            Size("base", 72_593_920),
            Size("base.en", 72_593_408, english_only=True),
            Size("small", 241_734_912),
            Size("small.en", 241_734_144, english_only=True),
            Size("medium", 763_857_920),
            Size("medium.en", 763_856_896, english_only=True),
            Size("large-v1", 1_543_304_960),
            Size("large-v2", 1_543_304_960),
            Size("large-v3", 1_543_490_560),
            Size("large-v3-turbo", 808_878_080),
            Size("distil-small.en", 166_132_224, english_only=True, engines=_DISTILLED),
            Size("distil-medium.en", 394_375_168, english_only=True, engines=_DISTILLED),
            Size("distil-large-v2", 756_220_160, engines=_DISTILLED),
            Size("distil-large-v3", 756_405_760, engines=_DISTILLED),
            Size("distil-large-v3.5", 756_405_760, engines=_DISTILLED),
        )
    }
)
"""By canonical name."""

ALIASES: Mapping[str, str] = MappingProxyType({"large": "large-v3", "turbo": "large-v3-turbo"})
"""Other names, as openai-whisper accepts them (whisper/__init__.py, _MODELS)."""

COMPUTE_TYPES: Mapping[Engine, frozenset[ComputeType]] = MappingProxyType(
    {
        Engine.OPENAI_WHISPER: frozenset({ComputeType.FLOAT32, ComputeType.FLOAT16}),
        Engine.FASTER_WHISPER: frozenset(ComputeType),
    }
)


def names() -> tuple[str, ...]:
    """Return every name that a model can be asked for by, aliases last."""
    return (*SIZES, *ALIASES)


def canonical_size(name: str) -> str:
    """Return the name under which a model was published, for it or for an alias. Raises UnknownSize."""
    return find_size(name).name


def find_size(name: str) -> Size:
    """Return the model of a name or an alias. Raises UnknownSize."""
    size = SIZES.get(ALIASES.get(name, name))
    if size is None:
        raise UnknownSize(name)
    return size


def is_english_only(name: str) -> bool:
    """Tell whether a model hears nothing but English. Raises UnknownSize."""
    return find_size(name).english_only


def conflicts(
    size: Size, engine: Engine, *, device: Device | None = None, compute_type: ComputeType | None = None
) -> list[str]:
    """Return a sentence for each reason why these cannot go together; None stands for the best there is."""
    found: list[str] = []
    if engine not in size.engines:
        found.append(f"the model {size.name} runs only with the engine {_either(size.engines)}, not with {engine}")
    if compute_type and compute_type not in COMPUTE_TYPES[engine]:
        engines = [other for other, types in COMPUTE_TYPES.items() if compute_type in types]
        found.append(f"the compute type {compute_type} runs only with the engine {_either(engines)}, not with {engine}")
    if compute_type is ComputeType.FLOAT16 and device is Device.CPU:
        found.append("the compute type float16 needs the device cuda; on the cpu leave it out, or use float32")
    return found


def _either(engines: frozenset[Engine] | list[Engine]) -> str:
    return " or ".join(sorted(engines))
