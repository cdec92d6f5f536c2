"""How a real API server validates, stores and prints WhisperModels."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from testing.api_server import ApiServer
from testing.manifests import EXAMPLE_FILES, EXAMPLES, Case, cases, example, manifest
from whisper_operator.offline.validation import problems
from whispermodel.catalog import Device
from whispermodel.manifests import manifests_in
from whispermodel.planning.modes import ManualCommand, Reason
from whispermodel.spec import API_VERSION, KIND
from whispermodel.states import Mode, State
from whispermodel.status import (
    Condition,
    LastFailure,
    LastLoad,
    LastUnload,
    Memory,
    NextTransition,
    Replicas,
    Status,
)

Json = dict[str, Any]

MODELS = "/apis/audio-transcriber.io/v1alpha1/namespaces/{}/whispermodels"
THEN = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
FULL_STATUS = Status(
    observed_generation=3,
    state=State.LOADED,
    target=State.LOADED,
    reason=Reason.SCHEDULE,
    message="Loaded by schedule 'morning' since Mon 07:00 -03; unloads Mon 20:00 -03.",
    since=THEN,
    spec_since=THEN,
    idle_since=THEN,
    next_transition=NextTransition(time=THEN, state=State.UNLOADED, by="evening", summary="Unloaded Mon 20:00 -03"),
    replicas=Replicas(desired=2, ready=1, loaded=1),
    manual=ManualCommand(Mode.LOADED, THEN),
    device=Device.CUDA,
    memory=Memory(
        summary="412Mi", resident_bytes=432013312, gpu_bytes=2**33, gpu_reserved_bytes=2**34, observed_at=THEN
    ),
    last_load=LastLoad(time=THEN, seconds=1.25, phases={"weights": 1.0, "device": 0.25}, trigger="schedule"),
    recent_start_seconds=(3.5, 4.0, 3.25, 2.0, 5.0),
    last_unload=LastUnload(
        time=THEN, seconds=0.5, freed_resident_bytes=2**30, freed_gpu_bytes=2**33, fully_released=True
    ),
    last_failure=LastFailure(reason="Crash", message="It exited with code 3.", exit_code=3, time=THEN, count=2),
    conditions=(
        Condition(
            type="Ready",
            status="True",
            reason="Loaded",
            message="The model is loaded; requests do not wait for a load.",
            last_transition_time=THEN,
            observed_generation=3,
        ),
        Condition(
            type="Degraded", status="False", reason="AsAsked", message="Working as expected.", last_transition_time=THEN
        ),
    ),
)


def create(api: ApiServer, body: Json, *, namespace: str = "default", dry_run: bool = True) -> httpx.Response:
    """Create a WhisperModel as kubectl does, with strict field validation. dry: without storing it."""
    query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
    return api.client().post(MODELS.format(namespace), params=query, json=body)


def apply_status(api: ApiServer, status: Json, *, namespace: str, name: str) -> httpx.Response:
    """Apply a status as the operator does."""
    body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "status": status}
    return api.client().patch(
        f"{MODELS.format(namespace)}/{name}/status",
        params={"fieldManager": "whisper-operator", "force": "true"},
        content=json.dumps(body),
        headers={"Content-Type": "application/apply-patch+yaml"},
    )


@pytest.mark.parametrize("case", [pytest.param(case, id=case.title) for case in cases()])
def test_verdict_matches_the_table(api_server: ApiServer, case: Case) -> None:
    answer = create(api_server, case.manifest)
    said = answer.json().get("message", "")
    if case.says is None:
        assert answer.status_code == 201, said
    else:
        assert answer.status_code in {400, 422}
        assert case.says in said, said


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in EXAMPLES])
def test_every_example_is_accepted(api_server: ApiServer, path: Path) -> None:
    answer = create(api_server, example(path))
    assert answer.status_code == 201, answer.json()["message"]


def test_minimal_manifest_gets_the_defaults(api_server: ApiServer) -> None:
    assert create(api_server, manifest({})).json()["spec"] == {
        "model": {"size": "base", "engine": "openai-whisper"},
        "desiredState": "Auto",
        "demandPolicy": "Wake",
        "idle": {"unloadAfter": "15m"},
        "suspend": False,
        "replicas": 1,
        "queue": {"maxWaiting": 100, "maxAudioBytes": "10Gi", "maxWait": "10m"},
    }


def test_schedule_defaults(api_server: ApiServer) -> None:
    stored = create(api_server, manifest({"schedule": {}})).json()
    assert stored["spec"]["schedule"] == {"timeZone": "Etc/UTC", "leadTime": "0s"}


def test_unknown_pod_fields_are_kept(api_server: ApiServer) -> None:
    pod = {
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "tolerationSeconds": 5}],
        "resources": {"limits": {"nvidia.com/gpu": 1}, "claims": [{"name": "gpu"}]},
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}],
        "volumes": [{"name": "a", "projected": {"sources": []}}],
        "volumeMounts": [{"name": "a", "mountPath": "/a", "subPath": "b"}],
        "imagePullSecrets": [{"name": "registry"}],
    }
    assert create(api_server, manifest({"pod": pod})).json()["spec"]["pod"] == pod


@pytest.fixture
def stored(api_server: ApiServer, namespace: str) -> Iterator[str]:
    """The namespace of a WhisperModel called base with a full status."""
    answer = create(api_server, manifest({}), namespace=namespace, dry_run=False)
    assert answer.status_code == 201, answer.text
    status = FULL_STATUS.model_dump(mode="json", exclude_none=True)
    answer = apply_status(api_server, status, namespace=namespace, name="base")
    assert answer.status_code == 200, answer.text
    yield namespace
    api_server.client().delete(f"{MODELS.format(namespace)}/base").raise_for_status()


def test_full_status_is_not_pruned(api_server: ApiServer, stored: str) -> None:
    unset = [name for name in Status.model_fields if not getattr(FULL_STATUS, name)]
    assert unset == []
    read = api_server.client().get(f"{MODELS.format(stored)}/base").json()
    assert Status.model_validate(read["status"]) == FULL_STATUS
    assert read["status"] == FULL_STATUS.model_dump(mode="json", exclude_none=True)


def test_unchanged_status_is_no_new_version(api_server: ApiServer, stored: str) -> None:
    before = api_server.client().get(f"{MODELS.format(stored)}/base").json()
    status = FULL_STATUS.model_dump(mode="json", exclude_none=True)
    after = apply_status(api_server, status, namespace=stored, name="base").json()
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_field_left_out_of_an_applied_status_is_removed(api_server: ApiServer, stored: str) -> None:
    status = FULL_STATUS.model_copy(update={"last_failure": None}).model_dump(mode="json", exclude_none=True)
    after = apply_status(api_server, status, namespace=stored, name="base").json()
    assert after["status"] == status


def test_unknown_field_in_an_applied_status_is_rejected(api_server: ApiServer, stored: str) -> None:
    assert apply_status(api_server, {"mood": "good"}, namespace=stored, name="base").status_code >= 400


def test_status_in_a_manifest_is_ignored(api_server: ApiServer) -> None:
    answer = create(api_server, manifest({}) | {"status": {"state": "Loaded"}})
    assert answer.status_code == 201
    assert "status" not in answer.json()


@pytest.mark.parametrize("how", ["--server-side", "--validate=strict"])
def test_kubectl_applies_all_examples_at_once(api_server: ApiServer, how: str) -> None:
    said = api_server.kubectl("apply", how, "--dry-run=server", "-f", str(EXAMPLES[0].parent))
    assert len(said.splitlines()) == len(EXAMPLE_FILES)


def test_kubectl_and_offline_check_read_unquoted_times_alike(api_server: ApiServer, tmp_path: Path) -> None:
    text = """
        apiVersion: audio-transcriber.io/v1alpha1
        kind: WhisperModel
        metadata: {name: base}
        spec:
          model: {size: base}
          override: {state: Loaded, until: 2026-11-27T23:00:00-03:00}
        """
    file = tmp_path / "base.yaml"
    file.write_text(textwrap.dedent(text))
    stored = json.loads(api_server.kubectl("create", "--dry-run=server", "-o", "json", "-f", str(file)))
    [read] = manifests_in(file.read_text())
    assert stored["spec"]["override"] == {"state": "Loaded", "until": "2026-11-27T23:00:00-03:00"}
    assert problems(read) == []


def test_kubectl_columns(api_server: ApiServer, stored: str) -> None:
    head, row = api_server.kubectl("get", "wm", "-n", stored).splitlines()
    assert head.split() == ["NAME", "STATE", "REASON", "MODEL", "MEMORY", "NEXT", "READY", "AGE"]
    expected = ["base", "Loaded", "Schedule", "base", "412Mi", "Unloaded", "Mon", "20:00", "-03", "True"]
    assert row.split()[:-1] == expected


def test_kubectl_wide_columns(api_server: ApiServer, stored: str) -> None:
    head, row = api_server.kubectl("get", "whispermodels", "-n", stored, "-o", "wide").splitlines()
    assert head.split()[7:] == ["TARGET", "GPU", "MESSAGE", "AGE"]
    assert "True    Loaded   8589934592   Loaded by schedule 'morning' since Mon 07:00 -03;" in row


def test_kubectl_get_all_lists_whispermodels(api_server: ApiServer, stored: str) -> None:
    assert "whispermodel.audio-transcriber.io/base" in api_server.kubectl("get", "all", "-n", stored)


def test_kubectl_waits_for_a_condition(api_server: ApiServer, stored: str) -> None:
    said = api_server.kubectl("wait", "-n", stored, "wm/base", "--for=condition=Ready", "--timeout=5s")
    assert "condition met" in said


def test_kubectl_explains_every_level(api_server: ApiServer) -> None:
    assert "IANA time zone" in api_server.kubectl("explain", "wm.spec.schedule.timeZone")
