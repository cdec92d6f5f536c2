"""The local cluster: a machine has only one, which belongs to the checkout that started it; and its volumes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from testing.paths import ROOT
from tools.clusters.base import ProviderFailed
from tools.clusters.local import volumes
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


def test_the_volumes_are_valid_and_satisfy_the_charts_claim() -> None:
    values = yaml.safe_load((ROOT / "deploy" / "helm" / "whisper-operator" / "values.yaml").read_text())
    storage, *every = volumes.objects()
    for one in (storage, *every):
        kubernetes_validate.validate(one, "1.34", strict=True)
    assert {one["spec"]["capacity"]["storage"] for one in every} == {values["gateway"]["persistence"]["size"]}
    assert {one["spec"]["storageClassName"] for one in every} == {storage["metadata"]["name"]}
