"""The operator with a faulty API server: errors, rate limits, lost history, closed connections."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from testing.api_server import ApiServer
from testing.child_process import WAIT_SECONDS
from testing.faulty_proxy import FaultyProxy, running_proxy
from testing.live_model import LiveModel
from testing.operator_process import OperatorProcess, eventually, is_of_an_operator, running_operator
from whisper_operator.runtime.leader_election import Timing
from whisper_operator.settings import Settings

OUTAGE_SECONDS = 3


@pytest.fixture
def proxy(api_server: ApiServer) -> Iterator[FaultyProxy]:
    with running_proxy(api_server) as running:
        yield running


@pytest.fixture
def resync_seconds() -> float:
    """Longer than any test, so that changes are seen by a watch only."""
    return Settings.model_fields["resync_seconds"].default


@pytest.fixture
def operator(
    api_server: ApiServer, proxy: FaultyProxy, rights: None, namespace: str, tmp_path: Path, resync_seconds: float
) -> Iterator[OperatorProcess]:
    """The operator behind the proxy."""
    config = yaml.safe_load(api_server.kubeconfig("operator").read_text())
    config["clusters"][0]["cluster"] = {"server": proxy.url}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    settings = {"KUBECONFIG": str(kubeconfig), "WHISPER_OPERATOR_RESYNC_SECONDS": str(resync_seconds)}
    with running_operator(api_server, tmp_path, namespace=namespace, **settings) as running:
        yield running


@pytest.mark.parametrize("code", [pytest.param(0, id="cut"), 429, 500, 503])
def test_operator_survives_an_outage_shorter_than_the_lease(
    model: LiveModel, operator: OperatorProcess, proxy: FaultyProxy, code: int
) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    proxy.fail_with = code
    proxy.drop_watches()
    model.apply(desiredState="Unloaded")
    eventually(lambda: proxy.failed > 0, "requests fail")
    time.sleep(OUTAGE_SECONDS)
    proxy.fail_with = None
    model.wait_for(state="Unloaded")
    assert operator.process is not None
    assert operator.process.poll() is None


def test_disconnected_watches_are_restarted(model: LiveModel, operator: OperatorProcess, proxy: FaultyProxy) -> None:
    model.apply(desiredState="Unloaded")
    model.wait_for(state="Unloaded")
    proxy.drop_watches()
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")


def test_410_gone_relists_everything(model: LiveModel, operator: OperatorProcess, proxy: FaultyProxy) -> None:
    model.apply(desiredState="Unloaded")
    model.wait_for(state="Unloaded")
    proxy.expire_watches = 10
    proxy.drop_watches()
    eventually(lambda: proxy.failed > 0, "a watch gets 410 Gone")
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")


def test_leader_paused_during_a_write_does_nothing_after_it(
    model: LiveModel, operator: OperatorProcess, proxy: FaultyProxy
) -> None:
    """The response to a status write arrives while the process is paused; its Event would be written next."""
    model.apply(desiredState="Unloaded")
    model.wait_for(state="Unloaded")
    proxy.delay_status_writes = True
    model.apply(desiredState="Loaded")
    eventually(lambda: proxy.delayed, "a status is written")
    assert operator.process is not None
    operator.process.send_signal(signal.SIGSTOP)
    time.sleep(Timing().deadline + 1)
    proxy.delay_status_writes = False
    eventually(lambda: not proxy.delayed, "it is answered")
    seen = len(model.api.writes())
    operator.process.send_signal(signal.SIGCONT)
    assert operator.process.wait(WAIT_SECONDS) == 1, "it has lost the lease"
    assert "Traceback" not in operator.log.read_text()
    assert [event for event in model.api.writes()[seen:] if is_of_an_operator(event, model.namespace)] == []


@pytest.mark.parametrize("resync_seconds", [2.0])
def test_missed_deletion_is_found_by_the_resync(
    model: LiveModel, operator: OperatorProcess, proxy: FaultyProxy
) -> None:
    model.apply(desiredState="Unloaded")
    model.wait_for(state="Unloaded")
    name = f'whispermodel="{model.name}"'
    assert name in operator.metrics()
    proxy.fail_with = 503
    proxy.drop_watches()
    model.api.client().delete(model.path)
    proxy.fail_with = None
    eventually(lambda: name not in operator.metrics(), "it is forgotten")
