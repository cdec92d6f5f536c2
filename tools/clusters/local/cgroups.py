"""The control group of every process of the cluster: in all hierarchies (version 1), or in the one (2)."""

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
"""By the file of version 1 or 2: four times what a group has by default, for stories judge by the time what happens in
the cluster, whatever else this machine computes meanwhile."""


def make() -> None:
    """Make the group, and one in it for the programs of the node; the kubelet makes those of pods beside it."""
    for group in _groups():
        _make_group(group)
    # Beside the pods', whose weight the kubelet takes from the node's processors.
    for group in _programs():
        _make_group(group)


def joining(command: list[str]) -> list[str]:
    """Return the command, run by a shell that first joins the group: so its children are in it from the first on."""
    joins = "".join(f"echo $$ > {group / 'cgroup.procs'} && " for group in _programs())
    return ["sh", "-c", f'{joins}exec "$@"', "sh", *command]


def members() -> set[int]:
    """Return the pids of all processes of the cluster, those in containers too."""
    return {pid for listed in _tracking().rglob("cgroup.procs") for pid in _pids(listed)}


def end_members() -> None:
    """Kill them all and wait for that. Raises ProviderFailed when some do not end."""
    deadline = time.monotonic() + _END_SECONDS
    while left := members():
        if time.monotonic() > deadline:
            raise ProviderFailed(f"these processes of the cluster do not end: {sorted(left)}")
        for pid in left:
            _kill(pid)
        time.sleep(_POLL_SECONDS)


def remove() -> None:
    """Remove the group with all in it; nothing runs there any more."""
    # runc makes it in a second version's hierarchy too, where that is mounted beside the first's.
    for hierarchy in [*_mounted("cgroup"), *_mounted("cgroup2")]:
        for folder in _bottom_up(hierarchy / NAME):
            _remove(folder)


def _make_group(group: Path) -> None:
    group.mkdir(exist_ok=True)
    for name in _weights_of(group):
        (group / name).write_text(str(_WEIGHTS[name]))
    # A new group of this controller takes no process before it has processors and memory.
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group.parent / name).exists():
            (group / name).write_text((group.parent / name).read_text())


def _groups() -> list[Path]:
    """Return the group, as it is in each hierarchy."""
    return [hierarchy / NAME for hierarchy in _mounted("cgroup") or _mounted("cgroup2")]


def _mounted(kind: str) -> list[Path]:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(where) for _, where, of_kind, *_ in mounts if of_kind == kind]


def _tracking() -> Path:
    """Return the group in the hierarchy by which processes are found: containers have theirs in each."""
    groups = _groups()
    return next((group for group in groups if group.parent.name == "pids"), groups[0])


def _programs() -> list[Path]:
    """Return the programs' groups: where they are found, and where processors are shared out."""
    tracking = _tracking()
    weighing = [group for group in _groups() if group != tracking and _weights_of(group)]
    return [group / "programs" for group in (tracking, *weighing)]


def _weights_of(group: Path) -> list[str]:
    return [name for name in _WEIGHTS if (group / name).exists()]


def _pids(listed: Path) -> list[int]:
    try:
        return [int(line) for line in listed.read_text().split()]
    except OSError:
        # The group went away between its listing and here.
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
            # What has ended leaves its group a moment later.
            if time.monotonic() > deadline:
                raise ProviderFailed(f"{folder} cannot be removed: {problem}") from problem
            time.sleep(_POLL_SECONDS)
