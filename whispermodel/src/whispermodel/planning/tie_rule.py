"""The tie rule: which fire or manual command takes precedence, also when several come at the same instant."""

from __future__ import annotations

from datetime import datetime

from whispermodel.states import Mode


def precedence(at: datetime, mode: Mode) -> tuple[datetime, int]:
    """Return a sort key: the latest takes precedence, and at the same instant the mode that holds the least memory."""
    return at, -mode.rank
