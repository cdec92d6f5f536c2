"""Read a Whisper model from CTranslate2's model.bin, and rename its tensors as in openai-whisper.

Layout (ctranslate2/specs/model_spec.py, binary version 6): version u32, specification name, revision u32, number of
variables u32, then each variable (name, rank u8, dimensions u32, type u8, bytes u32, data), then the number of aliases
u32 and each alias (name, variable name). A name is a length u16 followed by that many bytes, the last of them NUL.
Integers are little-endian.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]

BINARY_VERSION = 6
SPECIFICATION = "WhisperSpec"
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
"""By type id; 5 is bfloat16, which numpy lacks (ctranslate2/specs/model_spec.py, _dtype_to_type_id)."""

N_TEXT_HEADS, N_AUDIO_HEADS = "decoder/num_heads", "encoder/num_heads"


class ModelBinError(ValueError):
    """The file is not a CTranslate2 Whisper model in a supported format; the message says why."""


@dataclass(frozen=True, slots=True)
class Field:
    """The CTranslate2 variable that holds an openai-whisper module, which may be one of several equal parts of it."""

    variable: str
    part: int = 0
    parts: int = 1
    has_bias: bool = True


_LINEAR = {"weight": "weight", "bias": "bias"}
_NORM = {"weight": "gamma", "bias": "beta"}

# Self-attention fuses query, key and value; cross-attention fuses key and value (WhisperLoader in
# ctranslate2/converters/transformers.py). openai-whisper's key has no bias (whisper/model.py, MultiHeadAttention):
# CTranslate2 stores zeros.
_BLOCK_LINEAR = {
    "attn.query": Field("self_attention/linear_0", 0, 3),
    "attn.key": Field("self_attention/linear_0", 1, 3, has_bias=False),
    "attn.value": Field("self_attention/linear_0", 2, 3),
    "attn.out": Field("self_attention/linear_1"),
    "mlp.0": Field("ffn/linear_0"),
    "mlp.2": Field("ffn/linear_1"),
}
_CROSS_LINEAR = {
    "cross_attn.query": Field("attention/linear_0"),
    "cross_attn.key": Field("attention/linear_1", 0, 2, has_bias=False),
    "cross_attn.value": Field("attention/linear_1", 1, 2),
    "cross_attn.out": Field("attention/linear_2"),
}
_BLOCK_NORM = {"attn_ln": Field("self_attention/layer_norm"), "mlp_ln": Field("ffn/layer_norm")}
_CROSS_NORM = {"cross_attn_ln": Field("attention/layer_norm")}
_STEM = {
    "encoder.positional_embedding": "encoder/position_encodings/encodings",
    "encoder.conv1.weight": "encoder/conv1/weight",
    "encoder.conv1.bias": "encoder/conv1/bias",
    "encoder.conv2.weight": "encoder/conv2/weight",
    "encoder.conv2.bias": "encoder/conv2/bias",
    "encoder.ln_post.weight": "encoder/layer_norm/gamma",
    "encoder.ln_post.bias": "encoder/layer_norm/beta",
    "decoder.positional_embedding": "decoder/position_encodings/encodings",
    "decoder.token_embedding.weight": "decoder/embeddings/weight",
    "decoder.ln.weight": "decoder/layer_norm/gamma",
    "decoder.ln.bias": "decoder/layer_norm/beta",
}


def read_variables(path: Path) -> dict[str, Array]:
    """Return the variables of a model.bin by name, aliases included. Raises ModelBinError."""
    with path.open("rb") as file:
        try:
            return _variables(file)
        except struct.error as error:
            raise ModelBinError(f"{path} is truncated: {error}") from None


def openai_dims(variables: Mapping[str, Array]) -> dict[str, int]:
    """Return the fields of whisper.model.ModelDimensions, derived from the shapes of the variables."""
    n_vocab, n_text_state = variables["decoder/embeddings/weight"].shape
    n_audio_state, n_mels, _kernel = variables["encoder/conv1/weight"].shape
    return {
        "n_mels": n_mels,
        "n_audio_ctx": variables["encoder/position_encodings/encodings"].shape[0],
        "n_audio_state": n_audio_state,
        "n_audio_head": int(variables[N_AUDIO_HEADS]),
        "n_audio_layer": _layers(variables, "encoder"),
        "n_vocab": n_vocab,
        "n_text_ctx": variables["decoder/position_encodings/encodings"].shape[0],
        "n_text_state": n_text_state,
        "n_text_head": int(variables[N_TEXT_HEADS]),
        "n_text_layer": _layers(variables, "decoder"),
    }


def openai_state(variables: Mapping[str, Array]) -> dict[str, Array]:
    """Return the variables under openai-whisper's names, with fused variables split. Raises ModelBinError."""
    try:
        state = {name: variables[variable] for name, variable in _STEM.items()}
        for side, cross in (("encoder", False), ("decoder", True)):
            for layer in range(_layers(variables, side)):
                state |= _block(variables, f"{side}/layer_{layer}", name=f"{side}.blocks.{layer}", cross=cross)
    except KeyError as error:
        raise ModelBinError(f"the model lacks the variable {error}") from None
    return state


def _block(variables: Mapping[str, Array], scope: str, *, name: str, cross: bool) -> dict[str, Array]:
    linear = _BLOCK_LINEAR | (_CROSS_LINEAR if cross else {})
    norm = _BLOCK_NORM | (_CROSS_NORM if cross else {})
    return {
        f"{name}.{module}.{parameter}": _part(variables[f"{scope}/{field.variable}/{stored}"], field)
        for fields, parameters in ((linear, _LINEAR), (norm, _NORM))
        for module, field in fields.items()
        for parameter, stored in parameters.items()
        if parameter != "bias" or field.has_bias
    }


def _part(variable: Array, field: Field) -> Array:
    return np.split(variable, field.parts)[field.part]


def _layers(variables: Mapping[str, Array], side: str) -> int:
    pattern = re.compile(rf"{side}/layer_(\d+)/")
    return len({match[1] for name in variables if (match := pattern.match(name))})


def _variables(file: BinaryIO) -> dict[str, Array]:
    version, name, _revision = _number(file, "I"), _name(file), _number(file, "I")
    if (version, name) != (BINARY_VERSION, SPECIFICATION):
        raise ModelBinError(f"expected {SPECIFICATION} in version {BINARY_VERSION}, found {name!r} in {version}")
    variables = dict(_variable(file) for _ in range(_number(file, "I")))
    return variables | {alias: variables[target] for alias, target in _aliases(file)}


def _aliases(file: BinaryIO) -> Iterator[tuple[str, str]]:
    for _ in range(_number(file, "I")):
        yield _name(file), _name(file)


def _variable(file: BinaryIO) -> tuple[str, Array]:
    name = _name(file)
    shape = tuple(_number(file, "I") for _ in range(_number(file, "B")))
    kind, size = _number(file, "B"), _number(file, "I")
    if kind not in DTYPES:
        raise ModelBinError(f"the variable {name!r} has the unsupported type {kind}")
    data = file.read(size)
    if len(data) != size:
        raise ModelBinError(f"the variable {name!r} is truncated")
    return name, np.frombuffer(data, DTYPES[kind]).reshape(shape)


def _number(file: BinaryIO, kind: str) -> int:
    layout = struct.Struct(f"<{kind}")
    return int(layout.unpack(file.read(layout.size))[0])


def _name(file: BinaryIO) -> str:
    return file.read(_number(file, "H")).rstrip(b"\0").decode()
