"""The published Whisper models: names, engines that run them, and sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    """The number format of a model's weights, which decides their size."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"

    @property
    def bytes_per_parameter(self) -> int:
        """Bytes of memory for one weight."""
        return _BYTES_PER_PARAMETER[self]


@dataclass(frozen=True, slots=True)
class Size:
    """One model as published."""

    name: str
    """Its canonical name."""
    parameters: int
    """How many numbers the checkpoint holds, fixed position embeddings included. Computed from the dimensions of
    whisper.model.Whisper (openai-whisper 20250625) and, for distil-*, of the published Hugging Face configurations."""
    english_only: bool = False
    """Whether it transcribes nothing but English."""
    engines: frozenset[Engine] = frozenset(Engine)
    """The engines that can run it."""

    def weight_bytes(self, compute_type: ComputeType) -> int:
        """Return the bytes of memory for the weights alone, without activations, caches and the library."""
        return self.parameters * compute_type.bytes_per_parameter


class UnknownSize(ValueError):
    """There is no such model; the message lists those that exist."""

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
"""Other names that openai-whisper accepts (whisper/__init__.py, _MODELS)."""

COMPUTE_TYPES: Mapping[Engine, frozenset[ComputeType]] = MappingProxyType(
    {
        Engine.OPENAI_WHISPER: frozenset({ComputeType.FLOAT32, ComputeType.FLOAT16}),
        Engine.FASTER_WHISPER: frozenset(ComputeType),
    }
)


def names() -> tuple[str, ...]:
    """Return every accepted name, aliases last."""
    return (*SIZES, *ALIASES)


def canonical_size(name: str) -> str:
    """Return the name under which a model was published, given a name or an alias. Raises UnknownSize."""
    return find_size(name).name


def names_of_size(name: str) -> tuple[str, ...]:
    """Return the names by which clients know a published model, its canonical one first. Raises UnknownSize.

    Besides those of openai-whisper, they are the repositories on Hugging Face (openai, Systran, distil-whisper), which
    clients of other servers have in their settings.
    """
    canonical = canonical_size(name)
    own = (canonical, *(alias for alias, size in ALIASES.items() if size == canonical))
    if canonical.startswith("distil-"):
        return (
            *own,
            f"distil-whisper/{canonical}",
            f"Systran/faster-distil-whisper-{canonical.removeprefix('distil-')}",
        )
    return (*own, f"whisper-{canonical}", f"openai/whisper-{canonical}", f"Systran/faster-whisper-{canonical}")


def find_size(name: str) -> Size:
    """Return the model with a name or an alias. Raises UnknownSize."""
    size = SIZES.get(ALIASES.get(name, name))
    if size is None:
        raise UnknownSize(name)
    return size


def is_english_only(name: str) -> bool:
    """Return whether a model transcribes nothing but English. Raises UnknownSize."""
    return find_size(name).english_only


def conflicts(
    size: Size, engine: Engine, *, device: Device | None = None, compute_type: ComputeType | None = None
) -> list[str]:
    """Return a sentence for each reason why these cannot be combined; None means that the server chooses."""
    found: list[str] = []
    if engine not in size.engines:
        found.append(_runs_only_with(size.engines, engine, what=f"the model {size.name}"))
    if compute_type and compute_type not in COMPUTE_TYPES[engine]:
        engines = [other for other, types in COMPUTE_TYPES.items() if compute_type in types]
        found.append(_runs_only_with(engines, engine, what=f"the compute type {compute_type}"))
    if compute_type is ComputeType.FLOAT16 and device is Device.CPU:
        found.append("the compute type float16 needs the device cuda; on the cpu leave it out, or use float32")
    return found


def _runs_only_with(engines: Iterable[Engine], engine: Engine, *, what: str) -> str:
    return f"{what} runs only with the engine {' or '.join(sorted(engines))}, not with {engine}"
