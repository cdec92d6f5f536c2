"""The options that each model size supports, checked without torch."""

from __future__ import annotations

import math

import pytest

from whisper_inference.errors import MalformedRequest
from whisper_inference.transcripts.languages import check_options, language_code
from whisper_inference.transcripts.transcript import Options


@pytest.mark.parametrize(
    ("given", "code"),
    [("pt", "pt"), ("PT", "pt"), ("Portuguese", "pt"), ("castilian", "es"), ("auto", None), ("", None), (None, None)],
)
def test_language_is_found_by_code_or_name(given: str | None, code: str | None) -> None:
    assert language_code(given) == code


def test_unknown_language_is_rejected_with_a_hint() -> None:
    with pytest.raises(MalformedRequest, match="'klingon' is unknown"):
        language_code("klingon")


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        pytest.param(Options(language="pt"), "tiny.en", "English only", id="language of an English-only model"),
        pytest.param(
            Options(task="translate"), "base.en", "cannot translate", id="translation by an English-only model"
        ),
        pytest.param(Options(language="yue"), "large-v2", "Cantonese", id="language of later models"),
        pytest.param(Options(temperature=math.nan), "base", "temperature", id="temperature NaN"),
        pytest.param(Options(temperature=1.5), "base", "temperature", id="temperature too high"),
        pytest.param(
            Options(initial_prompt="a <|endoftext|>"), "base", "special tokens", id="special tokens in the prompt"
        ),
    ],
)
def test_unsupported_options_are_rejected(options: Options, size: str, message: str) -> None:
    with pytest.raises(MalformedRequest, match=message):
        check_options(options, size)


@pytest.mark.parametrize(
    ("options", "size"),
    [(Options(), "tiny.en"), (Options(language="en"), "tiny.en"), (Options(language="pt", task="translate"), "base")],
)
def test_supported_options_are_accepted(options: Options, size: str) -> None:
    check_options(options, size)
