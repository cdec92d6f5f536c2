"""The Whisper models that exist."""

from __future__ import annotations

import pytest

from whispermodel.catalog import (
    SIZES,
    ComputeType,
    Device,
    Engine,
    UnknownSize,
    canonical_size,
    conflicts,
    find_size,
    is_english_only,
    names,
)


@pytest.mark.parametrize(
    ("name", "canonical"), [("large", "large-v3"), ("turbo", "large-v3-turbo"), ("base.en", "base.en")]
)
def test_an_alias_stands_for_the_published_name(name: str, canonical: str) -> None:
    assert canonical_size(name) == canonical


@pytest.mark.parametrize("name", ["", "huge", "Base", "tiny.en "])
def test_an_unknown_size_is_refused_with_the_list_of_sizes(name: str) -> None:
    with pytest.raises(UnknownSize) as refused:
        canonical_size(name)
    assert all(known in str(refused.value) for known in names())


def test_the_names_say_which_models_hear_english_only() -> None:
    assert {name for name in SIZES if is_english_only(name)} == {name for name in SIZES if name.endswith(".en")}


def test_half_precision_takes_half_the_memory() -> None:
    large = find_size("large-v3")
    assert large.weight_bytes(ComputeType.FLOAT16) * 2 == large.weight_bytes(ComputeType.FLOAT32) == 6_173_962_240


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("engine", Engine)
def test_every_model_runs_with_its_engines_and_no_other(name: str, engine: Engine) -> None:
    assert bool(conflicts(find_size(name), engine)) == (name.startswith("distil") and engine is Engine.OPENAI_WHISPER)


@pytest.mark.parametrize(
    ("engine", "device", "compute_type", "problem"),
    [
        (Engine.OPENAI_WHISPER, None, ComputeType.INT8, "only with the engine faster-whisper"),
        (Engine.FASTER_WHISPER, Device.CPU, ComputeType.FLOAT16, "needs the device cuda"),
        (Engine.OPENAI_WHISPER, Device.CPU, ComputeType.FLOAT16, "needs the device cuda"),
    ],
)
def test_what_cannot_go_together_is_named(
    engine: Engine, device: Device | None, compute_type: ComputeType, problem: str
) -> None:
    [sentence] = conflicts(find_size("base"), engine, device=device, compute_type=compute_type)
    assert problem in sentence


@pytest.mark.parametrize(
    ("engine", "device", "compute_type"),
    [
        (Engine.FASTER_WHISPER, Device.CPU, ComputeType.INT8),
        (Engine.OPENAI_WHISPER, Device.CUDA, ComputeType.FLOAT16),
        (Engine.OPENAI_WHISPER, None, ComputeType.FLOAT16),
        (Engine.OPENAI_WHISPER, Device.CPU, None),
    ],
)
def test_what_can_go_together_has_no_conflict(
    engine: Engine, device: Device | None, compute_type: ComputeType | None
) -> None:
    assert conflicts(find_size("base"), engine, device=device, compute_type=compute_type) == []
