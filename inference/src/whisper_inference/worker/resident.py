"""Memory of processes, read from /proc (Linux), and how to trim this process's own."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MADV_DONTNEED = 4  # linux/mman.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BYTES = 2**30
_KIB = 1024
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+)")


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes of one process or of several together."""

    resident: int = 0
    """All pages (RSS)."""
    proportional: int = 0
    """Shared pages divided by the number of processes that share them (PSS)."""
    anonymous: int = 0
    """Not backed by a file: the kernel cannot reclaim it."""
    file: int = 0
    """Backed by a file, such as mapped weights: the kernel can reclaim it at any time."""

    def __add__(self, other: Resident) -> Resident:
        return Resident(
            resident=self.resident + other.resident,
            proportional=self.proportional + other.proportional,
            anonymous=self.anonymous + other.anonymous,
            file=self.file + other.file,
        )


NOTHING = Resident()


def resident_of(pid: int) -> Resident:
    """Return the memory of a process; NOTHING when it is gone (proc(5), smaps_rollup)."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return NOTHING
    sizes = {line.split(":")[0]: int(line.split()[1]) * _KIB for line in text.splitlines()[1:]}
    return Resident(
        resident=sizes["Rss"],
        proportional=sizes["Pss"],
        anonymous=sizes["Anonymous"],
        file=sizes["Rss"] - sizes["Anonymous"],
    )


def trim_idle_memory() -> None:
    """Return freed heap to the kernel and unmap clean file pages: an idle process does not need them."""
    trim_heap()
    drop_clean_file_pages()


def keep_freed_heap() -> None:
    """Make malloc keep freed memory for later allocations of any size, until trim_heap (mallopt(3)).

    By default glibc maps each large buffer anew and unmaps it when freed, so that every page is faulted in again: a
    third of a million faults for 150 s of audio, an eighth of the time. A glibc that rejects the first limit (older
    ones allow 32 MiB at most) is left unchanged: setting the second alone would only stop it from adapting the first.
    """
    libc = ctypes.CDLL(None)
    if libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES):
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def share_one_arena() -> None:
    """Make malloc serve all threads from one heap (mallopt(3)): what one of them frees, another may use."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:  # None: not glibc.
        mallopt(_M_ARENA_MAX, 1)


def trim_heap() -> None:
    """Return the heap's free pages to the kernel (malloc_trim(3)); glibc keeps holes below what is still in use."""
    ctypes.CDLL(None).malloc_trim(0)


def drop_clean_file_pages() -> None:
    """Unmap this process's pages of files that it only reads: code and constants of libraries.

    They stay in the page cache and are mapped again on access; but an idle process that went through a gigabyte of
    libraries would count them as its own forever. Only mappings without writable or private pages are dropped, since
    MADV_DONTNEED would lose relocated ones.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for start, end in _clean_file_mappings(Path("/proc/self/smaps").read_text()):
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def _clean_file_mappings(smaps: str) -> Iterator[tuple[int, int]]:
    current: tuple[int, int] | None = None
    for line in smaps.splitlines():
        if mapping := _MAPPING.match(line):
            start, end, permissions, inode = mapping.groups()
            readable_file = inode != "0" and permissions[0] == "r" and permissions[1] == "-"
            current = (int(start, 16), int(end, 16)) if readable_file else None
        elif current and line.startswith("Anonymous:") and line.split()[1] == "0":
            yield current
