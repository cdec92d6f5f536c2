"""The memory and CPU cores available to this process, within the limits of its cgroups (v1 and v2)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from whisper_inference.errors import ModelDoesNotFit

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def require_memory(needed_bytes: int, *, available_bytes: int, where: str) -> None:
    """Raise ModelDoesNotFit if the model needs more memory than is available."""
    if needed_bytes > available_bytes:
        raise ModelDoesNotFit(needed_bytes=needed_bytes, available_bytes=available_bytes, where=where)


def available_memory(*, proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Return the available bytes: MemAvailable, or less if a cgroup allows less.

    A cgroup's reclaimable page cache (inactive_file) does not count as used, as in the kubelet's working set.
    """
    meminfo = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
    system = int(meminfo["MemAvailable"].split()[0]) * 1024
    return max(0, min((system, *_cgroup_headrooms(proc, cgroup))))


def total_memory(*, proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Return the bytes of memory that this machine has: MemTotal, or less if a cgroup allows less."""
    meminfo = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
    limits = [int(meminfo["MemTotal"].split()[0]) * 1024]
    for controller, name in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
        found = (_read(folder / name).strip() for folder in _cgroup_folders(proc, cgroup, controller=controller))
        limits += [int(limit) for limit in found if limit.isdigit()]
    return min(limits)


def usable_cores(*, proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Return how many threads can run at once: the affinity mask, or less if a cgroup's CPU quota allows less."""
    cores = len(os.sched_getaffinity(0))
    for folder in _cgroup_folders(proc, cgroup, controller=""):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            cores = min(cores, math.ceil(int(quota) / int(period)))
    for folder in _cgroup_folders(proc, cgroup, controller="cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit():
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def _cgroup_headrooms(proc: Path, cgroup: Path) -> Iterator[int]:
    for folder in _cgroup_folders(proc, cgroup, controller=""):
        yield from _headroom(folder, limit="memory.max", usage="memory.current", cache="inactive_file")
    for folder in _cgroup_folders(proc, cgroup, controller="memory"):
        yield from _headroom(
            folder, limit="memory.limit_in_bytes", usage="memory.usage_in_bytes", cache="total_inactive_file"
        )


def _headroom(folder: Path, *, limit: str, usage: str, cache: str) -> Iterator[int]:
    maximum, used = _read(folder / limit).strip(), _read(folder / usage).strip()
    if not maximum.isdigit() or not used.isdigit():
        return  # "max", or the controller is not enabled here
    stats = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
    yield int(maximum) - max(0, int(used) - int(stats.get(cache, "0")))


def _cgroup_folders(proc: Path, cgroup: Path, *, controller: str) -> Iterator[Path]:
    """Yield this process's cgroup and its ancestors, each of which may set limits; controller "" means version 2."""
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(",") or (not controller and controllers):
            continue
        own = cgroup / controller / path.lstrip("/")
        # In a container the path may be the host's, in which case only the mount's root is visible.
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(cgroup / controller))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
