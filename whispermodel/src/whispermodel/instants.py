"""Points in time, as people and programs write them: 2026-12-24T18:00:00-03:00."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BeforeValidator

FIRST_YEAR = 2000


def _require_text(given: object) -> object:
    if not isinstance(given, str | datetime):
        raise ValueError("write a time with its offset, such as 2026-12-24T18:00:00-03:00")
    return given


def _require_in_range(time: datetime) -> datetime:
    """At both ends of the calendar some time zones cannot show an instant."""
    if not FIRST_YEAR <= time.year < 3000:
        raise ValueError("choose a time in the years 2000 to 2999")
    return time


Instant = Annotated[AwareDatetime, BeforeValidator(_require_text), AfterValidator(_require_in_range)]
"""A time with its offset from UTC, in the years 2000 to 2999."""
