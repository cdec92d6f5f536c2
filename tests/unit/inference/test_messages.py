"""Every error has a message in both languages, with the same parameters."""

from __future__ import annotations

import string

import pytest

from whisper_inference import messages
from whisper_inference.errors import ServiceError, TranscriptionFailed, error_of
from whisper_inference.messages import Language, language_of, render, title_of

SENTENCES = messages._SENTENCES
KINDS = sorted(ServiceError.__subclasses__(), key=lambda kind: kind.code)


def placeholders(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}


@pytest.mark.parametrize("kind", [ServiceError, *KINDS], ids=lambda kind: kind.__name__)
def test_every_error_has_a_message(kind: type[ServiceError]) -> None:
    assert kind.code in SENTENCES
    assert 400 <= kind.status < 600


def test_titles_belong_to_error_codes() -> None:
    assert messages._TITLES.keys() <= {kind.code for kind in (ServiceError, *KINDS)}


@pytest.mark.parametrize(("code", "title"), [("waited-too-long", "Timed out"), ("not-audio", "Not audio")])
def test_title_is_the_codes_own_or_made_from_it(code: str, title: str) -> None:
    assert title_of(code) == title


def test_error_codes_are_unique() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("code", SENTENCES)
def test_translations_have_the_same_parameters_and_differ(code: str) -> None:
    english, portuguese = SENTENCES[code]
    assert placeholders(english) == placeholders(portuguese)
    assert english != portuguese
    params = {name: f"<{name}>" for name in placeholders(english)}
    for language in ("en", "pt"):
        sentence = render(code, language, params)
        assert all(value in sentence for value in params.values())
        assert "{" not in sentence


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_error_from_another_process_has_the_same_messages(kind: type[ServiceError]) -> None:
    params: dict[str, str | int | float] = dict.fromkeys(placeholders(SENTENCES[kind.code][0]), 7)
    original, received = kind(), error_of(kind.code, params)
    original.params = params
    assert type(received) is kind
    for language in ("en", "pt"):
        assert received.detail(language) == original.detail(language)
    assert str(original) == original.detail("en")


def test_unknown_code_is_kept_in_the_message() -> None:
    error = error_of("from-the-future", {"cause": "x"})
    assert isinstance(error, TranscriptionFailed)
    assert "from-the-future" in str(error)


@pytest.mark.parametrize(
    ("header", "language"),
    [
        (None, "en"),
        ("", "en"),
        ("pt", "pt"),
        ("pt-BR", "pt"),
        ("PT-br,en;q=0.8", "pt"),
        (" pt-PT ; q=1", "pt"),
        ("pt;q=0.9", "pt"),
        ("en-US,pt;q=0.9", "en"),
        ("de", "en"),
        ("*", "en"),
        ("ptx", "en"),
        (",,,", "en"),
    ],
)
def test_portuguese_must_be_the_first_accepted_language(header: str | None, language: Language) -> None:
    assert language_of(header) == language
