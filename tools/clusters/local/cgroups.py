"""The control group of the cluster's processes: in all hierarchies of cgroup v1, or in the single one of v2."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tools.clusters.base import ProviderFailed
from tools.clusters.local.layout import NAME

_END_SECONDS = 20.0
_POLL_SECONDS = 0.02

_WEIGHTS = {"cpu.shares": 4 * 1024, "cpu.weight": 4 * 100}
"""CPU weights for cgroup v1 and v2: four times the default, because the end-to-end tests check timing in the cluster
while other work may run on this machine."""


def make() -> None:
    """Create the group, and a subgroup for the node's programs; the kubelet creates those of the pods."""
    for group in _groups():
        _make_group(group)
    # A sibling of the pods' group, whose weight the kubelet derives from the number of CPUs.
    for group in _programs():
        _make_group(group)


def joining(command: list[str]) -> list[str]:
    """Return the command wrapped in a shell that first joins the group, so that all its children are members."""
    joins = "".join(f"echo $$ > {group / 'cgroup.procs'} && " for group in _programs())
    return ["sh", "-c", f'{joins}exec "$@"', "sh", *command]


def members() -> set[int]:
    """Return the pids of all processes of the cluster, including those in containers."""
    return {pid for listed in _tracking().rglob("cgroup.procs") for pid in _pids(listed)}


def end_members() -> None:
    """Kill all members and wait for them to exit. Raises ProviderFailed if some do not."""
    deadline = time.monotonic() + _END_SECONDS
    while left := members():
        if time.monotonic() > deadline:
            raise ProviderFailed(f"these processes of the cluster did not exit after SIGKILL: {sorted(left)}")
        for pid in left:
            _kill(pid)
        time.sleep(_POLL_SECONDS)


def remove() -> None:
    """Remove the group and its subgroups, which must have no processes."""
    # If both versions are mounted, runc creates the group in v2 as well.
    for hierarchy in [*_mounted("cgroup"), *_mounted("cgroup2")]:
        for folder in _bottom_up(hierarchy / NAME):
            _remove(folder)


def _make_group(group: Path) -> None:
    group.mkdir(exist_ok=True)
    for name in _weights_of(group):
        (group / name).write_text(str(_WEIGHTS[name]))
    # A new cpuset group accepts no processes until it has CPUs and memory nodes.
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group.parent / name).exists():
            (group / name).write_text((group.parent / name).read_text())


def _groups() -> list[Path]:
    """Return the group in each hierarchy."""
    return [hierarchy / NAME for hierarchy in _mounted("cgroup") or _mounted("cgroup2")]


def _mounted(kind: str) -> list[Path]:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(where) for _, where, of_kind, *_ in mounts if of_kind == kind]


def _tracking() -> Path:
    """Return the group in the hierarchy that is used to find processes; containers are in all of them."""
    groups = _groups()
    return next((group for group in groups if group.parent.name == "pids"), groups[0])


def _programs() -> list[Path]:
    """Return the groups of the node's programs: in the hierarchy that finds them, and in those with CPU weights."""
    tracking = _tracking()
    weighing = [group for group in _groups() if group != tracking and _weights_of(group)]
    return [group / "programs" for group in (tracking, *weighing)]


def _weights_of(group: Path) -> list[str]:
    return [name for name in _WEIGHTS if (group / name).exists()]


def _pids(listed: Path) -> list[int]:
    try:
        return [int(line) for line in listed.read_text().split()]
    except OSError:
        # The group was removed after it was listed.
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _bottom_up(group: Path) -> Iterator[Path]:
    for folder, _, _ in os.walk(group, topdown=False):
        yield Path(folder)


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + _END_SECONDS
    while True:
        try:
            return folder.rmdir()
        except OSError as problem:
            # An exited process leaves its group with a short delay.
            if time.monotonic() > deadline:
                raise ProviderFailed(f"cannot remove {folder}: {problem}") from problem
            time.sleep(_POLL_SECONDS)
