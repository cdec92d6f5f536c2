"""The operator killed, replicated and disconnected: it converges, and does nothing twice."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import pytest

from testing.api_server import ApiServer
from testing.child_process import WAIT_SECONDS
from testing.depth import depth
from testing.kubelet_stand_in import Kubelet
from testing.live_model import LiveModel
from testing.operator_process import OperatorProcess, eventually, is_of_an_operator, running_operator
from testing.pod_stand_in import PodServer

KILLS = depth(ci=2, nightly=13)
"""Of each kind; at night 52 together."""
AT_ONCE = {"unloadAfter": "0s", "scaleToZeroAfter": "0s"}


@pytest.fixture
def slow_pods(kubelet: Kubelet) -> None:
    """Loads and unloads that are slow enough to observe; some outlast the operator's restart."""
    lengths = cycle([0.2, 1.5, 0.4])

    def prepare(server: object) -> None:
        server.load_seconds = server.unload_seconds = next(lengths)  # type: ignore[attr-defined]

    kubelet.prepare = prepare


@dataclass
class Killer:
    """Kills the operator shortly after an observed fact, and restarts it. kills: how often, by fact."""

    operator: OperatorProcess
    chance: random.Random
    kills: Counter[str] = field(default_factory=Counter[str])

    def kill_when(self, what: str, fact: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not fact():
            assert time.monotonic() < deadline, f"{what}: not within {WAIT_SECONDS} s"
            time.sleep(0.02)
        # What follows a step, such as the status write, is interrupted as well.
        time.sleep(self.chance.uniform(0, 0.05))
        self.operator.stop(signal.SIGKILL)
        self.operator.start()
        self.kills[what] += 1


@pytest.mark.timeout(600)
def test_operator_killed_at_any_step_converges_and_acts_once(
    api_server: ApiServer, model: LiveModel, slow_pods: None, rights: None, tmp_path: Path
) -> None:
    """Wake by demand, load, change the size, unload, go to zero, repeatedly, with a kill at each step."""
    # A container that restarts in the same pod is the same candidate, and need not wait for its own lease.
    named = {"WHISPER_OPERATOR_IDENTITY": "the-pod"}
    with running_operator(api_server, tmp_path, namespace=model.namespace, **named) as operator:
        killer = Killer(operator, random.Random(20261123))
        model.apply(desiredState="Zero", idle=AT_ONCE)
        model.wait_for(state="Zero")
        for number in range(KILLS):
            _go_round(model, killer, size=("base", "tiny.en")[number % 2])
    assert killer.kills == dict.fromkeys(("wake", "load", "rollout", "unload"), KILLS)
    stand_ins = {name: server for name, server in model.kubelet.seen.items() if isinstance(server, PodServer)}
    assert len(stand_ins) == 2 * KILLS, "one pod for each wake, and one for each change of size"
    for name, server in stand_ins.items():
        unloads = server.effects.count("unload")
        left = server.effects.count("load") - unloads
        assert server.effects == ["load", "unload"] * unloads + ["load"] * left, f"{name}: something was done twice"


def _go_round(model: LiveModel, killer: Killer, *, size: str) -> None:
    def is_in(state: str) -> bool:
        return any(isinstance(pod, PodServer) and pod.state == state for pod in list(model.kubelet.pods.values()))

    def pod_asks_for(size: str) -> bool:
        [container] = model.deployment()["spec"]["template"]["spec"]["containers"]
        return {"name": "WHISPER_MODEL", "value": size} in container["env"]

    model.demand(seconds=60)
    killer.kill_when("wake", lambda: model.deployment()["spec"]["replicas"] == 1)
    killer.kill_when("load", lambda: is_in("Loading"))
    model.wait_for(state="Loaded", reason="Demand")
    [old] = model.servers()
    model.apply(desiredState="Zero", idle=AT_ONCE, model={"size": size})
    killer.kill_when("rollout", lambda: pod_asks_for(size))
    eventually(lambda: [one.state for one in model.servers() if one is not old] == ["Loaded"], "the new pod has it")
    model.demand(seconds=1, renewed=datetime.now(UTC) - timedelta(seconds=1))
    killer.kill_when("unload", lambda: is_in("Unloading"))
    model.wait_for(state="Zero", target="Zero")
    eventually(lambda: model.pods() == [], "no pod is left")


def test_second_replica_takes_over_within_20_seconds(
    api_server: ApiServer, model: LiveModel, rights: None, tmp_path: Path
) -> None:
    """The leader is paused, as on an overloaded machine, and resumes after another replica took over."""
    with (
        running_operator(api_server, tmp_path, namespace=model.namespace, WHISPER_OPERATOR_IDENTITY="first") as first,
        running_operator(api_server, tmp_path, namespace=model.namespace, WHISPER_OPERATOR_IDENTITY="second") as second,
    ):
        eventually(lambda: _lease(model).get("holderIdentity"), "somebody leads")
        leader, follower = (first, second) if _lease(model)["holderIdentity"] == "first" else (second, first)
        model.apply(desiredState="Loaded")
        model.wait_for(state="Loaded")
        assert leader.process is not None
        leader.process.send_signal(signal.SIGSTOP)
        left = datetime.fromisoformat(_lease(model)["renewTime"])
        model.apply(desiredState="Unloaded")
        model.wait_for(state="Unloaded")
        assert datetime.fromisoformat(_lease(model)["acquireTime"]) - left < timedelta(seconds=20)
        # Leave something to do when the old leader resumes.
        model.apply(desiredState="Loaded")
        leader.process.send_signal(signal.SIGCONT)
        assert leader.process.wait(WAIT_SECONDS) == 1, "it has lost the lease"
        model.wait_for(state="Loaded")
        assert follower.process is not None
        assert follower.process.poll() is None
        assert "Traceback" not in leader.log.read_text()
        who = [_writer(event) for event in api_server.writes() if is_of_an_operator(event, model.namespace)]
        changes = sum(1 for one, other in pairwise(who) if one != other)
        assert changes == 1, f"one acted until its end, then the other: {who}"


def _lease(model: LiveModel) -> dict[str, str]:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{model.namespace}/leases/whisper-operator"
    return model.api.client().get(path).json().get("spec", {})


def _writer(event: dict[str, Any]) -> str:
    return event["userAgent"].rpartition("(")[2]


def test_stopped_leader_releases_its_lease(
    api_server: ApiServer, model: LiveModel, rights: None, tmp_path: Path
) -> None:
    with running_operator(api_server, tmp_path, namespace=model.namespace) as first:
        model.apply(desiredState="Unloaded")
        model.wait_for(state="Unloaded")
        assert first.stop() == 0
    assert _lease(model)["holderIdentity"] == "", "the next one takes it at its first look"
    with running_operator(api_server, tmp_path, namespace=model.namespace):
        model.apply(desiredState="Loaded")
        model.wait_for(state="Loaded")


def test_operator_survives_an_api_server_restart(model: LiveModel, operator: OperatorProcess) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    model.api.stop(signal.SIGKILL)
    model.api.start()
    model.apply(desiredState="Unloaded")

    def has_reconciled() -> bool:
        assert operator.process is not None
        if operator.process.poll() is not None:
            # On a slow machine the start outlasts the lease; in a pod, the operator would be restarted.
            assert operator.process.returncode == 1
            assert "could not renew the lease" in operator.log.read_text()
            operator.start()
        return model.status.get("state") == "Unloaded"

    eventually(has_reconciled, "the operator reconciles")
    assert "Traceback" not in operator.log.read_text()


def test_missing_rights_are_reported_until_granted(
    api_server: ApiServer, model: LiveModel, operator: OperatorProcess
) -> None:
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/whisper-operator"
    role = api_server.client().get(path).json()
    rules = role["rules"]
    api_server.client().patch(
        path,
        content=json.dumps({"rules": [rule for rule in rules if "deployments" not in rule["resources"]]}),
        headers={"Content-Type": "application/merge-patch+json"},
    )
    try:
        model.apply(desiredState="Unloaded")
        eventually(
            lambda: "deployments" in operator.log.read_text() and "403" in operator.log.read_text(), "it says so"
        )
    finally:
        api_server.client().patch(
            path, content=json.dumps({"rules": rules}), headers={"Content-Type": "application/merge-patch+json"}
        )
    model.wait_for(state="Unloaded")


def test_changed_default_image_waits_until_the_model_is_at_rest(
    api_server: ApiServer, model: LiveModel, rights: None, tmp_path: Path
) -> None:
    def image() -> str:
        return model.deployment()["spec"]["template"]["spec"]["containers"][0]["image"]

    with running_operator(api_server, tmp_path, namespace=model.namespace) as old:
        model.apply(desiredState="Loaded")
        model.wait_for(state="Loaded")
        assert old.stop() == 0
    with running_operator(api_server, tmp_path, namespace=model.namespace, WHISPER_OPERATOR_IMAGE="newer:2"):
        generation = model.apply(desiredState="Loaded", idle={"unloadAfter": "1m"})["metadata"]["generation"]
        model.wait_for(state="Loaded", observedGeneration=generation)
        assert image() == "whisper-inference:0.1.0"
        model.apply(desiredState="Unloaded")
        eventually(lambda: image() == "newer:2", "the new image comes with the rest")
        model.wait_for(state="Unloaded")


def test_default_image_is_applied_at_once_to_pods_that_cannot_serve(
    api_server: ApiServer, kubelet: Kubelet, model: LiveModel, rights: None, tmp_path: Path
) -> None:
    kubelet.fate = "image-missing"
    with running_operator(api_server, tmp_path, namespace=model.namespace, WHISPER_OPERATOR_IMAGE="nowhere/x:1"):
        model.apply(desiredState="Loaded")
        model.wait_for(state="Failed")
    kubelet.fate = "run"
    with running_operator(api_server, tmp_path, namespace=model.namespace):
        model.wait_for(state="Loaded")


def test_image_removed_from_the_spec_is_replaced_while_loaded(model: LiveModel, operator: OperatorProcess) -> None:
    model.apply(desiredState="Loaded", pod={"image": "mine:1"})
    model.wait_for(state="Loaded")
    generation = model.apply(desiredState="Loaded")["metadata"]["generation"]
    model.wait_for(state="Loaded", observedGeneration=generation)
    assert model.deployment()["spec"]["template"]["spec"]["containers"][0]["image"] == "whisper-inference:0.1.0"


def test_deleting_a_model_without_operator_deletes_its_objects(
    api_server: ApiServer, model: LiveModel, rights: None, tmp_path: Path
) -> None:
    everybody = {"WHISPER_OPERATOR_ALLOW_FROM": json.dumps([{"podSelector": {}}])}
    with running_operator(api_server, tmp_path, namespace=model.namespace, **everybody) as operator:
        model.apply(desiredState="Loaded")
        model.wait_for(state="Loaded")
        operator.stop()
    owned = {kind: _all_of(model, kind) for kind in OWNED}
    assert all(owned.values()), owned
    for one in (model.get(), *(one for all_of_kind in owned.values() for one in all_of_kind)):
        assert "finalizers" not in one["metadata"], one["metadata"]
    model.api.client().delete(model.path)
    eventually(lambda: not any(_all_of(model, kind) for kind in OWNED), "all is gone")


OWNED = {
    "deployments": "/apis/apps/v1",
    "replicasets": "/apis/apps/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "services": "/api/v1",
    "pods": "/api/v1",
}


def _all_of(model: LiveModel, kind: str) -> list[dict[str, Any]]:
    return model.api.client().get(f"{OWNED[kind]}/namespaces/{model.namespace}/{kind}").json()["items"]
