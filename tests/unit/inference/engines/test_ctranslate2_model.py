"""Reading CTranslate2's model.bin, and naming Whisper's tensors as openai-whisper does."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tools.ctranslate2_model import Array, ModelBinError, openai_dims, openai_state, read_variables

TYPE_IDS = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
STATE, MELS, VOCABULARY = 6, 5, 11


def name(text: str) -> bytes:
    encoded = text.encode() + b"\0"
    return struct.pack("<H", len(encoded)) + encoded


def variable(key: str, array: Array) -> bytes:
    data = array.tobytes()
    shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    return name(key) + shape + struct.pack("<BI", TYPE_IDS[str(array.dtype)], len(data)) + data


def model_bin(variables: dict[str, Array], *, specification: str = "WhisperSpec", version: int = 6) -> bytes:
    header = struct.pack("<I", version) + name(specification) + struct.pack("<II", 3, len(variables))
    alias = struct.pack("<I", 1) + name("decoder/projection/weight") + name("decoder/embeddings/weight")
    return header + b"".join(variable(key, array) for key, array in variables.items()) + alias


def random_arrays(shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    random = np.random.default_rng(0)
    return {key: random.standard_normal(shape).astype(np.float16) for key, shape in shapes.items()}


def block_shapes(scope: str, *, fused: dict[str, int]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for linear, width in fused.items():
        shapes |= {f"{scope}/{linear}/weight": (width * STATE, STATE), f"{scope}/{linear}/bias": (width * STATE,)}
        norm = f"{scope}/{linear.split('/')[0]}/layer_norm"
        shapes |= {f"{norm}/gamma": (STATE,), f"{norm}/beta": (STATE,)}
    return shapes


@pytest.fixture
def small_model() -> dict[str, Array]:
    """A Whisper model with one encoder and two decoder layers."""
    own = {"self_attention/linear_0": 3, "self_attention/linear_1": 1, "ffn/linear_0": 4, "ffn/linear_1": 1}
    cross = {"attention/linear_0": 1, "attention/linear_1": 2, "attention/linear_2": 1}
    shapes: dict[str, tuple[int, ...]] = {
        "encoder/position_encodings/encodings": (9, STATE),
        "encoder/conv1/weight": (STATE, MELS, 3),
        "encoder/conv2/weight": (STATE, STATE, 3),
        "decoder/position_encodings/encodings": (7, STATE),
        "decoder/embeddings/weight": (VOCABULARY, STATE),
    }
    for vector in ("encoder/conv1/bias", "encoder/conv2/bias"):
        shapes[vector] = (STATE,)
    for norm in ("encoder/layer_norm", "decoder/layer_norm"):
        shapes |= {f"{norm}/gamma": (STATE,), f"{norm}/beta": (STATE,)}
    shapes |= block_shapes("encoder/layer_0", fused=own)
    shapes |= block_shapes("decoder/layer_0", fused=own | cross) | block_shapes("decoder/layer_1", fused=own | cross)
    heads: dict[str, Array] = {f"{side}/num_heads": np.array(2, dtype=np.int16) for side in ("encoder", "decoder")}
    return random_arrays(shapes) | heads


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


def test_variables_round_trip(path: Path, small_model: dict[str, Array]) -> None:
    path.write_bytes(model_bin(small_model))
    read = read_variables(path)
    assert set(read) == {*small_model, "decoder/projection/weight"}
    for key, array in small_model.items():
        np.testing.assert_array_equal(read[key], array, strict=True)


def test_alias_shares_its_variable(path: Path, small_model: dict[str, Array]) -> None:
    path.write_bytes(model_bin(small_model))
    read = read_variables(path)
    assert read["decoder/projection/weight"] is read["decoder/embeddings/weight"]


def test_dimensions_follow_from_the_shapes(small_model: dict[str, Array]) -> None:
    assert openai_dims(small_model) == {
        "n_mels": MELS,
        "n_audio_ctx": 9,
        "n_audio_state": STATE,
        "n_audio_head": 2,
        "n_audio_layer": 1,
        "n_vocab": VOCABULARY,
        "n_text_ctx": 7,
        "n_text_state": STATE,
        "n_text_head": 2,
        "n_text_layer": 2,
    }


def test_fused_attention_is_split_and_keys_have_no_bias(small_model: dict[str, Array]) -> None:
    state = openai_state(small_model)
    for layer, fused, parts in [
        ("decoder.blocks.1.attn", "decoder/layer_1/self_attention/linear_0", ("query", "key", "value")),
        ("decoder.blocks.1.cross_attn", "decoder/layer_1/attention/linear_1", ("key", "value")),
        ("encoder.blocks.0.attn", "encoder/layer_0/self_attention/linear_0", ("query", "key", "value")),
    ]:
        whole = np.concatenate([state[f"{layer}.{part}.weight"] for part in parts])
        np.testing.assert_array_equal(whole, small_model[f"{fused}/weight"])
        assert f"{layer}.key.bias" not in state
        np.testing.assert_array_equal(state[f"{layer}.value.bias"], small_model[f"{fused}/bias"][-STATE:])


def test_missing_variable_is_named_in_the_error(small_model: dict[str, Array]) -> None:
    del small_model["decoder/layer_1/ffn/linear_0/bias"]
    with pytest.raises(ModelBinError, match="decoder/layer_1/ffn/linear_0/bias"):
        openai_state(small_model)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x06", id="truncated in the header"),
        pytest.param(model_bin({}, specification="TransformerSpec"), id="another model"),
        pytest.param(model_bin({}, version=7), id="another version"),
        pytest.param(model_bin({"a": np.zeros(4, np.float32)})[:-60], id="truncated in the data"),
    ],
)
def test_other_files_are_rejected(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ModelBinError):
        read_variables(path)
