"""Hints for names that are not known, of fields and of settings."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "", otherwise: str) -> str:
    """Return a question with the closest known name, or `otherwise`. prefix: what all names begin with."""
    # Compare without the prefix, which would make all names look similar.
    near = get_close_matches(name.removeprefix(prefix), [one.removeprefix(prefix) for one in known], n=1)
    return f"did you mean {prefix}{near[0]}?" if near else otherwise


def unknown_setting(name: str, known: Iterable[str], *, prefix: str) -> str:
    """Return a sentence about an environment variable that looks like a setting."""
    hint = did_you_mean(name, known, prefix=prefix, otherwise="docs/settings.md lists all settings")
    return f"{name} is not a known setting: {hint}"
