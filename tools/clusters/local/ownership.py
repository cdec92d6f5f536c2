"""Lock the cluster for one checkout: its address, link and control group exist only once per machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.clusters.base import ProviderFailed
from tools.clusters.local.layout import NAME, STATE

LOCK = Path("/run/lock") / NAME
"""Contains the path of the owner's state directory."""


@contextmanager
def claimed(lock: Path = LOCK, state: Path = STATE) -> Iterator[int]:
    """Take the lock and yield its descriptor. It stays locked while any process that inherits the descriptor runs.

    Raises ProviderFailed if the lock is held.
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


def require_ownership(lock: Path = LOCK, state: Path = STATE) -> None:
    """Raise ProviderFailed if another checkout's cluster is running."""
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
            f"another checkout's cluster is already running ({lock.read_text()}), and a machine can run only one: "
            "run 'make cluster-down' there"
        ) from problem
