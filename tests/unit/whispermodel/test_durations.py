"""Durations as the Gateway API writes them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whispermodel.durations import LONGEST, DurationError, format_duration, parse_duration

writable = st.timedeltas(min_value=timedelta(), max_value=LONGEST).map(
    lambda span: span - span % timedelta(milliseconds=1)
)
gep_2257 = st.from_regex(r"\A([0-9]{1,5}(h|m|s|ms)){1,4}\Z").filter(lambda text: text.isascii())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("1h", 3600),
        ("1h30m", 5400),
        ("15m", 900),
        ("10s", 10),
        ("500ms", 0.5),
        ("30m1h", 5400),
        ("1m1m", 120),
        ("99999h59m59s999ms", LONGEST.total_seconds()),
    ],
)
def test_a_duration_is_the_sum_of_its_terms(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "15", "1.5h", "-1h", "1d", " 1h", "1h ", "1H", "1h\n", "123456s", "1h1m1s1ms1h", "h", "1us", "\u0661h"]
)
def test_what_gep_2257_does_not_allow_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(DurationError, match=r"is not a duration: .* such as 1h30m"):
        parse_duration(text)


def test_more_than_the_longest_duration_is_refused() -> None:
    with pytest.raises(DurationError, match="99999h59m59s999ms"):
        parse_duration("99999h99999m")


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(), "0s"),
        (timedelta(minutes=90), "1h30m"),
        (timedelta(seconds=3600.5), "1h500ms"),
        (timedelta(days=2), "48h"),
    ],
)
def test_the_canonical_form_descends_and_has_no_zeros(span: timedelta, text: str) -> None:
    assert format_duration(span) == text


@pytest.mark.parametrize(
    "span", [timedelta(seconds=-1), timedelta(microseconds=1), LONGEST + timedelta(milliseconds=1)]
)
def test_what_cannot_be_written_is_refused(span: timedelta) -> None:
    with pytest.raises(DurationError, match="cannot be written"):
        format_duration(span)


@given(writable)
def test_every_writable_span_survives_writing_and_reading(span: timedelta) -> None:
    assert parse_duration(format_duration(span)) == span


@given(gep_2257)
def test_the_canonical_form_of_any_duration_is_a_fixed_point(text: str) -> None:
    try:
        canonical = format_duration(parse_duration(text))
    except DurationError:
        return
    assert format_duration(parse_duration(canonical)) == canonical
