"""Ownership of the local cluster: a machine has only one, which belongs to the checkout that started it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.clusters.base import ProviderFailed
from tools.clusters.local.ownership import claimed, require_ownership


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "lock" / "whisper-e2e"


@pytest.fixture
def machine(lock: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock of the checkout /first."""
    with claimed(lock, Path("/first")) as descriptor:
        process = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, pass_fds=(descriptor,))
    yield process
    process.communicate()


@pytest.mark.usefixtures("machine")
def test_the_cluster_of_another_checkout_can_be_neither_stopped_nor_replaced(lock: Path) -> None:
    with pytest.raises(ProviderFailed, match=r"is already running \(/first\), .* there"):
        require_ownership(lock, Path("/second"))
    with pytest.raises(ProviderFailed, match=r"\(/first\)"), claimed(lock, Path("/second")):
        pass


@pytest.mark.usefixtures("machine")
def test_a_checkout_can_stop_its_own_cluster(lock: Path) -> None:
    require_ownership(lock, Path("/first"))


def test_a_stopped_cluster_releases_the_lock(lock: Path, machine: subprocess.Popen[bytes]) -> None:
    machine.communicate()
    require_ownership(lock, Path("/second"))
    with claimed(lock, Path("/second")):
        assert lock.read_text() == "/second"
