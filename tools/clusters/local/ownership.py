"""Whose the cluster is: address, link and control group are this machine's, so one checkout has it at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.clusters.base import ProviderFailed
from tools.clusters.local.layout import NAME, STATE

LOCK = Path("/run/lock") / NAME
"""Holds the path of the owner's state."""


@contextmanager
def claimed(lock: Path = LOCK, state: Path = STATE) -> Iterator[int]:
    """Take the lock; yield its descriptor. It stays taken as long as a process that inherits that lives.

    Raises ProviderFailed while somebody has it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(descriptor, lock)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, bytes(state))
        yield descriptor
    finally:
        os.close(descriptor)


def refuse_another_s(lock: Path = LOCK, state: Path = STATE) -> None:
    """Raise ProviderFailed while the cluster is up and another checkout's."""
    try:
        with claimed(lock, state):
            pass
    except ProviderFailed:
        if lock.read_text() != str(state):
            raise


def _take(descriptor: int, lock: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as problem:
        raise ProviderFailed(
            f"a local cluster is up already, of {lock.read_text()}, and a machine can have one: "
            "end it there by 'make cluster-down'"
        ) from problem
