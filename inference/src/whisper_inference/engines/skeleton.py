"""Builds a Whisper model without initialising its weights, which takes whisper most of the time of a large load."""

# The library has no type hints: its values are untyped here, and get a type where they leave this module.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
import whisper
import whisper.model
from torch import Tensor, nn

_INITIALISED_LAYERS = (nn.Linear, nn.Conv1d, nn.Embedding, nn.LayerNorm)

_SHAPES = {
    "tiny": (384, 6, 4, 4),
    "base": (512, 8, 6, 6),
    "small": (768, 12, 12, 12),
    "medium": (1024, 16, 24, 24),
    "large-v1": (1280, 20, 32, 32),
    "large-v2": (1280, 20, 32, 32),
    "large-v3": (1280, 20, 32, 32),
    "large": (1280, 20, 32, 32),
    "large-v3-turbo": (1280, 20, 32, 4),
    "turbo": (1280, 20, 32, 4),
}
"""Width, heads, encoder layers, decoder layers (openai/whisper model card; Radford et al. 2022, table 1)."""

_ENGLISH_VOCABULARY, _MULTILINGUAL_VOCABULARY, _V3_VOCABULARY = 51864, 51865, 51866
_V3_SIZES = frozenset({"large-v3", "large", "large-v3-turbo", "turbo"})


def expected_dims(size: str) -> dict[str, int] | None:
    """Return the dimensions of an official size, like a checkpoint's "dims"; None for another name."""
    shape = _SHAPES.get(size.removesuffix(".en"))
    if shape is None:
        return None
    width, heads, audio_layers, text_layers = shape
    multilingual = _V3_VOCABULARY if size in _V3_SIZES else _MULTILINGUAL_VOCABULARY
    return {
        "n_mels": 128 if size in _V3_SIZES else 80,
        "n_vocab": _ENGLISH_VOCABULARY if size.endswith(".en") else multilingual,
        "n_audio_ctx": 1500,
        "n_audio_state": width,
        "n_audio_head": heads,
        "n_audio_layer": audio_layers,
        "n_text_ctx": 448,
        "n_text_state": width,
        "n_text_head": heads,
        "n_text_layer": text_layers,
    }


def build_skeleton(dims: Mapping[str, int], *, size: str) -> whisper.Whisper:
    """Return a Whisper model on the CPU with uninitialised parameters and its real non-persistent buffers.

    The meta device would leave those buffers (decoder.mask, alignment_heads) without data. The alignment heads are
    whisper's own for the size, if it has any.
    """
    with _without_initialisation():
        model = whisper.Whisper(whisper.model.ModelDimensions(**dims))
    heads = whisper._ALIGNMENT_HEADS.get(size)  # pyright: ignore[reportPrivateUsage]
    if heads is not None:
        model.set_alignment_heads(heads)
    return model.eval()


def assign_weights(model: whisper.Whisper, tensors: Mapping[str, Tensor]) -> None:
    """Use the tensors as the model's weights, without a copy. Raises ValueError if names or shapes differ."""
    differing = set(tensors) ^ set(model.state_dict())
    if differing:
        raise ValueError(f"{len(differing)} tensors are missing or unknown, such as '{min(differing)}'.")
    for module_name, module in model.named_modules():
        prefix = f"{module_name}." if module_name else ""
        for name, old in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(_checked(prefix + name, tensors, old), requires_grad=False))
        for name, old in list(module.named_buffers(recurse=False)):
            if prefix + name in tensors:
                setattr(module, name, _checked(prefix + name, tensors, old))


def _checked(name: str, tensors: Mapping[str, Tensor], old: Tensor) -> Tensor:
    new = tensors[name]
    if new.shape != old.shape:
        raise ValueError(f"'{name}' has the shape {tuple(new.shape)}, expected {tuple(old.shape)}.")
    return new


@contextmanager
def _without_initialisation() -> Generator[None]:
    """Build modules without initialising their weights; the sinusoids come from the checkpoint as well."""
    stock = {kind: kind.reset_parameters for kind in _INITIALISED_LAYERS}
    sinusoids = whisper.model.sinusoids
    try:
        for kind in _INITIALISED_LAYERS:
            kind.reset_parameters = _skip  # pyright: ignore[reportAttributeAccessIssue]
        whisper.model.sinusoids = _empty_sinusoids
        yield
    finally:
        for kind, reset in stock.items():
            kind.reset_parameters = reset  # pyright: ignore[reportAttributeAccessIssue]
        whisper.model.sinusoids = sinusoids


def _skip(_: nn.Module) -> None:
    return None


def _empty_sinusoids(length: int, channels: int) -> Tensor:
    return torch.empty(length, channels)
