"""What a model can be asked, checked without torch."""

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
def test_languages_are_known_by_code_and_by_name(given: str | None, code: str | None) -> None:
    assert language_code(given) == code


def test_an_unknown_language_is_refused_with_a_hint() -> None:
    with pytest.raises(MalformedRequest, match="'klingon' is unknown"):
        language_code("klingon")


@pytest.mark.parametrize(
    ("options", "size", "words"),
    [
        pytest.param(Options(language="pt"), "tiny.en", "English only", id="another language"),
        pytest.param(Options(task="translate"), "base.en", "cannot translate", id="translation"),
        pytest.param(Options(language="yue"), "large-v2", "Cantonese", id="a language of later models"),
        pytest.param(Options(temperature=math.nan), "base", "temperature", id="a temperature that is no number"),
        pytest.param(Options(temperature=1.5), "base", "temperature", id="a temperature too high"),
        pytest.param(Options(initial_prompt="a <|endoftext|>"), "base", "special tokens", id="tokens in the prompt"),
    ],
)
def test_what_a_model_cannot_do_is_refused_in_words(options: Options, size: str, words: str) -> None:
    with pytest.raises(MalformedRequest, match=words):
        check_options(options, size)


@pytest.mark.parametrize(
    ("options", "size"),
    [(Options(), "tiny.en"), (Options(language="en"), "tiny.en"), (Options(language="pt", task="translate"), "base")],
)
def test_what_a_model_can_do_passes(options: Options, size: str) -> None:
    check_options(options, size)
