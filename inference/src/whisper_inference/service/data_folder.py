"""One server per data folder: a lock that the kernel releases with the process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from whisper_inference.errors import DataFolderBusy, StorageUnusable


@contextmanager
def data_folder_lock(folder: Path) -> Generator[None]:
    """Lock a data folder for this process, creating it if necessary. Raises DataFolderBusy, StorageUnusable.

    Children must not inherit the descriptor, since they would keep the lock (flock(2)): it closes on exec, and children
    are started with their descriptors closed.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            held.callback(os.close, descriptor)
            _lock(descriptor, folder)
        except OSError as error:
            raise StorageUnusable(place=str(folder), reason=error.strerror or str(error)) from None
        yield


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise DataFolderBusy(folder=str(folder), pid=holder) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
