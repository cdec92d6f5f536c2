"""The cluster without Docker: a machine has one, whichever checkout brought it up."""

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
    """A process that holds the cluster of the checkout /first."""
    with claimed(lock, Path("/first")) as descriptor:
        process = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, pass_fds=(descriptor,))
    yield process
    process.communicate()


@pytest.mark.usefixtures("machine")
def test_the_cluster_of_another_checkout_is_neither_ended_nor_doubled(lock: Path) -> None:
    with pytest.raises(ProviderFailed, match=r"is already running \(/first\), .* there"):
        require_ownership(lock, Path("/second"))
    with pytest.raises(ProviderFailed, match=r"\(/first\)"), claimed(lock, Path("/second")):
        pass


@pytest.mark.usefixtures("machine")
def test_a_checkout_may_end_its_own_cluster(lock: Path) -> None:
    require_ownership(lock, Path("/first"))


def test_a_cluster_that_has_ended_is_in_nobody_s_way(lock: Path, machine: subprocess.Popen[bytes]) -> None:
    machine.communicate()
    require_ownership(lock, Path("/second"))
    with claimed(lock, Path("/second")):
        assert lock.read_text() == "/second"
