"""The demand for the models of this machine: what requests and people need, as the gateway declared it last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from whisper_inference.fleet.demand import Declaration
from whispermodel.key import Key

_NOTHING = Declaration()


@dataclass(slots=True)
class DeclaredDemand:
    """Keeps what is declared in memory: there is nobody else to read it, and jobs declare theirs after a restart."""

    on_change: Callable[[], None] = lambda: None
    """Called after each declaration."""
    _declared: dict[Key, Declaration] = field(default_factory=dict[Key, Declaration])

    async def declare(self, key: Key, declaration: Declaration) -> None:
        """Replace what was declared about a model."""
        self._declared[key] = declaration
        self.on_change()

    def of(self, key: Key) -> Declaration:
        """Return what was declared last."""
        return self._declared.get(key, _NOTHING)

    def forget(self, key: Key) -> None:
        """Forget a model that is gone."""
        self._declared.pop(key, None)


def end_of(declaration: Declaration) -> datetime | None:
    """Return when the demand ends, or ended; None: there is none."""
    if declaration.renewed_at is None:
        return None
    return declaration.renewed_at + timedelta(seconds=declaration.seconds)
