"""Durations as the Gateway API writes them: 1h30m, 15m, 10s, 500ms (GEP-2257)."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_TERM = re.compile(r"([0-9]{1,5})(h|ms|m|s)")
_DURATION = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")

LONGEST = timedelta(hours=99_999, minutes=59, seconds=59, milliseconds=999)
"""The longest duration that GEP-2257 can express in descending units."""


class DurationError(ValueError):
    """The text or time span is not a valid GEP-2257 duration; the message says what is."""


def parse_duration(text: str) -> timedelta:
    """Return the time span of up to four terms of up to five digits with h, m, s or ms. Raises DurationError."""
    if not _DURATION.fullmatch(text):
        raise DurationError(
            f"{text!r} is not a duration: write whole numbers with h, m, s or ms, such as 1h30m or 500ms"
        )
    span = sum((int(number) * _UNITS[unit] for number, unit in _TERM.findall(text)), timedelta())
    if span > LONGEST:
        raise DurationError(f"{text!r} is too long: the longest duration is {format_duration(LONGEST)}")
    return span


def format_duration(span: timedelta) -> str:
    """Return the canonical form: descending units, none of them zero; an empty span is 0s. Raises DurationError."""
    if not timedelta() <= span <= LONGEST:
        raise DurationError(f"{span} cannot be written as a duration: it is outside the range 0s to 99999h59m59s999ms")
    if span % _UNITS["ms"]:
        raise DurationError(f"{span} cannot be written as a duration: it is not a whole number of milliseconds")
    terms: list[str] = []
    for unit, length in _UNITS.items():
        count, span = divmod(span, length)
        terms += [f"{count}{unit}"] if count else []
    return "".join(terms) or "0s"
