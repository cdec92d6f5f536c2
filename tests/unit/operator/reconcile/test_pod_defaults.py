"""Defaults for pods whose WhisperModel sets nothing."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from testing.planner_cases import spec_of
from testing.reconcile_harness import KEY, IdleServer, ReconcileHarness
from whisper_cluster.api import DEPLOYMENTS
from whisper_operator.resources.deployment import POD_DEFAULTS_ANNOTATION, Defaults, deployment
from whisper_operator.resources.identity import Identity
from whispermodel.spec import Pod

Json = dict[str, Any]
POD = {
    "imagePullSecrets": [{"name": "registry"}],
    "resources": {"requests": {"memory": "1Gi"}},
    "nodeSelector": {"gpu": "yes"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "terminationGracePeriodSeconds": 60,
}
DEFAULTS = Defaults("whisper-inference:0.1.0", pod=Pod.model_validate(POD))


def made(defaults: Defaults = DEFAULTS, pod: Json | None = None) -> Json:
    body = deployment(Identity("speech", "base", "uid-1"), spec_of(pod=pod or {}), replicas=1, defaults=defaults)
    return cast("Json", body)


def flat(body: Json) -> Json:
    """Return the fields in question as spec.pod has them."""
    pod = body["spec"]["template"]["spec"]
    [container] = pod["containers"]
    every = {**pod, "resources": container.get("resources")}
    return {name: every[name] for name in POD if every.get(name)}


def test_unset_fields_get_defaults() -> None:
    assert flat(made()) == POD


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("imagePullSecrets", [{"name": "mine"}]),
        ("resources", {"limits": {"nvidia.com/gpu": "1"}}),
        ("nodeSelector", {"zone": "a"}),
        ("tolerations", [{"operator": "Exists"}]),
        ("terminationGracePeriodSeconds", 5),
    ],
)
def test_set_field_replaces_the_whole_default(name: str, value: object) -> None:
    assert flat(made(pod={name: value})) == POD | {name: value}


@pytest.mark.parametrize("nothing", ["imagePullSecrets", "tolerations"])
def test_empty_list_overrides_the_default(nothing: str) -> None:
    assert flat(made(pod={nothing: []})) == {name: value for name, value in POD.items() if name != nothing}


def test_no_defaults_no_annotation() -> None:
    assert POD_DEFAULTS_ANNOTATION not in made(Defaults("a:1"))["metadata"]["annotations"]


@pytest.mark.parametrize("before", [DEFAULTS, Defaults("whisper-inference:0.1.0")], ids=["other ones", "none"])
def test_deployment_records_its_defaults(before: Defaults) -> None:
    there = made(before)
    changed = Defaults("whisper-inference:0.1.0", pod=Pod(node_selector={"gpu": "no"}))
    kept = changed.as_applied(there["metadata"]["annotations"])
    assert made(kept)["spec"]["template"] == there["spec"]["template"]


@pytest.mark.parametrize("text", ["", "{", '{"nodes": 1}'])
def test_invalid_annotation_is_ignored(text: str) -> None:
    assert DEFAULTS.as_applied({POD_DEFAULTS_ANNOTATION: text}) == DEFAULTS


def test_changed_defaults_wait_until_the_model_is_at_rest() -> None:
    async def run_once() -> None:
        harness = ReconcileHarness(desiredState="Loaded")
        server = harness.server = IdleServer(harness)
        await harness.reconcile()
        harness.start_pod()
        await harness.reconcile()

        def nodes() -> Json:
            there = harness.api.objects[DEPLOYMENTS.path(KEY.namespace, KEY.name)]
            return there["spec"]["template"]["spec"].get("nodeSelector", {})

        harness.restart(defaults=DEFAULTS)
        harness.apply(desiredState="Loaded", idle={"unloadAfter": "1m"})
        await harness.reconcile()
        assert (harness.status.state, nodes()) == ("Loaded", {})
        server.state = "Unloaded"
        harness.apply(desiredState="Unloaded")
        await harness.reconcile()
        assert nodes() == POD["nodeSelector"]

    asyncio.run(run_once())
