"""The operator killed, doubled and cut off: it converges, and does nothing twice."""

from __future__ import annotations

import json
import random
import signal
import time
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from tests.api_server import ApiServer
from tests.kubelet_stand_in import Kubelet
from tests.operator_process import OperatorProcess, eventually, running_operator
from tests.pod_stand_in import PodServer
from tests.whispermodel_scene import ModelScene

KILLS = 50


@pytest.fixture
def slow_pods(kubelet: Kubelet) -> None:
    """Loads and unloads that last long enough for a kill to hit them."""

    def prepare(server: object) -> None:
        server.load_seconds = server.unload_seconds = 0.15  # type: ignore[attr-defined]

    kubelet.prepare = prepare


@pytest.mark.timeout(600)
def test_killed_at_any_moment_it_converges_and_loads_each_pod_once(
    api_server: ApiServer, model: ModelScene, slow_pods: None, rights: None, tmp_path: Path
) -> None:
    """A load, an unload, a wake, a change of size, to zero: round and round, with 50 kills at random instants."""
    # A container that starts again in the same pod is the same candidate, and need not wait for its own lease.
    named = {"WHISPER_OPERATOR_IDENTITY": "the-pod"}
    with running_operator(api_server, tmp_path, namespace=model.namespace, **named) as operator:
        _go_round_and_round(model, operator)
    stand_ins = {name: server for name, server in model.kubelet.seen.items() if isinstance(server, PodServer)}
    assert stand_ins
    for name, server in stand_ins.items():
        unloads = server.effects.count("unload")
        left = server.effects.count("load") - unloads
        assert server.effects == ["load", "unload"] * unloads + ["load"] * left, f"{name}: something was done twice"


def _go_round_and_round(model: ModelScene, operator: OperatorProcess) -> None:
    chance = random.Random(20261123)
    model.apply(desiredState="Zero")
    model.wait_for(state="Zero")
    wishes = [
        ({"desiredState": "Loaded"}, "Loaded"),
        ({"desiredState": "Unloaded"}, "Unloaded"),
        ({"desiredState": "Loaded", "model": {"size": "base"}}, "Loaded"),
        ({"desiredState": "Zero", "model": {"size": "base"}}, "Zero"),
    ]
    kills = 0
    while kills < KILLS:
        for spec, state in wishes:
            generation = model.apply(**spec)["metadata"]["generation"]
            for _ in range(3):
                # A start takes a second, and most of what it does comes in the second after that.
                time.sleep(chance.uniform(0.8, 2.2))
                operator.stop(signal.SIGKILL)
                operator.start()
                kills += 1
            model.wait_for(state=state, target=state, observedGeneration=generation)


def test_of_two_replicas_one_acts_and_the_other_follows_within_20_seconds(
    api_server: ApiServer, model: ModelScene, rights: None, tmp_path: Path
) -> None:
    with (
        running_operator(api_server, tmp_path, namespace=model.namespace, WHISPER_OPERATOR_IDENTITY="first") as first,
        running_operator(api_server, tmp_path, namespace=model.namespace, WHISPER_OPERATOR_IDENTITY="second") as second,
    ):
        lease = f"/apis/coordination.k8s.io/v1/namespaces/{model.namespace}/leases/whisper-operator"

        def held() -> dict[str, str]:
            return api_server.client().get(lease).json().get("spec", {})

        eventually(lambda: held().get("holderIdentity"), "somebody leads")
        leader, follower = (first, second) if held()["holderIdentity"] == "first" else (second, first)
        model.apply(desiredState="Loaded")
        model.wait_for(state="Loaded")
        leader.stop(signal.SIGKILL)
        left = datetime.fromisoformat(held()["renewTime"])
        model.apply(desiredState="Unloaded")
        model.wait_for(state="Unloaded", seconds=60)
        assert datetime.fromisoformat(held()["acquireTime"]) - left < timedelta(seconds=20)
        assert follower.process is not None
        assert follower.process.poll() is None
        who = [event["userAgent"].rpartition("(")[2] for event in model.writes("whispermodels", subresource="status")]
        changes = sum(1 for one, other in pairwise(who) if one != other)
        assert changes == 1, f"one acted until its end, then the other: {who}"


def test_a_leader_that_stops_in_order_is_followed_at_once(
    api_server: ApiServer, model: ModelScene, rights: None, tmp_path: Path
) -> None:
    with running_operator(api_server, tmp_path, namespace=model.namespace) as first:
        model.apply(desiredState="Unloaded")
        model.wait_for(state="Unloaded")
        assert first.stop() == 0
        with running_operator(api_server, tmp_path, namespace=model.namespace):
            started = time.monotonic()
            model.apply(desiredState="Loaded")
            model.wait_for(state="Loaded")
            assert time.monotonic() - started < 10, "it did not wait for the lease to run out"


def test_a_restarted_api_server_and_broken_watches_are_outlived(model: ModelScene, operator: OperatorProcess) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    model.api.stop(signal.SIGKILL)
    model.api.start()
    model.apply(desiredState="Unloaded")
    model.wait_for(state="Unloaded")
    assert operator.process is not None
    assert operator.process.poll() is None, "an outage shorter than the lease does not end it"


def test_without_rights_it_says_so_and_goes_on_when_it_has_them(
    api_server: ApiServer, model: ModelScene, operator: OperatorProcess
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


def test_a_changed_default_image_waits_until_the_model_is_at_rest(
    api_server: ApiServer, model: ModelScene, rights: None, tmp_path: Path
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


def test_a_default_image_that_pods_need_to_serve_at_all_does_not_wait(
    api_server: ApiServer, kubelet: Kubelet, model: ModelScene, rights: None, tmp_path: Path
) -> None:
    kubelet.fate = "image-missing"
    with running_operator(api_server, tmp_path, namespace=model.namespace, WHISPER_OPERATOR_IMAGE="nowhere/x:1"):
        model.apply(desiredState="Loaded")
        model.wait_for(state="Failed")
    kubelet.fate = "run"
    with running_operator(api_server, tmp_path, namespace=model.namespace):
        model.wait_for(state="Loaded")


def test_an_image_taken_out_of_the_spec_is_replaced_though_the_model_is_loaded(
    model: ModelScene, operator: OperatorProcess
) -> None:
    model.apply(desiredState="Loaded", pod={"image": "mine:1"})
    model.wait_for(state="Loaded")
    generation = model.apply(desiredState="Loaded")["metadata"]["generation"]
    model.wait_for(state="Loaded", observedGeneration=generation)
    assert model.deployment()["spec"]["template"]["spec"]["containers"][0]["image"] == "whisper-inference:0.1.0"
