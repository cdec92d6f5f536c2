"""Modes, states and depths: the enums that the spec, the status and the server's routes share.

They are apart from the spec, because building its classes takes longer than a server may spend on them at its start.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal


class _Ranked(StrEnum):
    """Members in ascending order."""

    @property
    def rank(self) -> int:
        """The position in the order of declaration."""
        return list(type(self)).index(self)


class Mode(_Ranked):
    """What a spec may ask for, ordered by the memory held; in Auto demand decides, so it ranks before Loaded.

    The rank decides ties between fires.
    """

    ZERO = "Zero"
    UNLOADED = "Unloaded"
    AUTO = "Auto"
    LOADED = "Loaded"


class State(_Ranked):
    """What was observed, in the order by which the lowest of several pods is found."""

    FAILED = "Failed"
    ZERO = "Zero"
    STARTING = "Starting"
    UNLOADING = "Unloading"
    UNLOADED = "Unloaded"
    LOADING = "Loading"
    LOADED = "Loaded"


ServerState = Literal[State.UNLOADED, State.LOADING, State.LOADED, State.UNLOADING, State.FAILED]
"""The states of one server's model: a model that is Zero or Starting has no server that could report it."""


class Depth(StrEnum):
    """How much an unload ends: warm keeps the zygote, cold keeps nothing but the API process."""

    WARM = "warm"
    COLD = "cold"
