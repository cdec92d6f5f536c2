"""The offline check reports what the API server rejects, and what only the operator rejects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.manifests import EXAMPLES, STATUSES, Case, cases, example, manifest
from testing.paths import ROOT
from whisper_operator.offline.validation import Verdict, problems, verdicts
from whispermodel.manifests import UnreadableManifest, manifests_in

Json = dict[str, Any]
TABLE = ROOT / "tests" / "data" / "manifests.yaml"
METADATA = yaml.safe_load(TABLE.read_text(encoding="utf-8"))["metadata"]
OURS = (
    "{apiVersion: audio-transcriber.io/v1alpha1, kind: WhisperModel, metadata: {name: base}, "
    "spec: {model: {size: base}}}"
)
CONFIG_MAP = "{apiVersion: v1, kind: ConfigMap, metadata: {name: notes}, data: {a: b}}"


@pytest.mark.parametrize("case", [pytest.param(case, id=case.title) for case in cases()])
def test_verdict_equals_the_api_servers(case: Case) -> None:
    found = problems(case.manifest)
    if case.says is None:
        assert found == []
    else:
        assert [sentence for sentence in found if case.says in sentence], found


@pytest.mark.parametrize("row", [pytest.param(row, id=row["case"]) for row in METADATA])
def test_verdict_on_metadata_equals_the_api_servers(row: Json) -> None:
    written = manifest({})
    written["metadata"] |= row["metadata"]
    assert problems(written) == ([row.get("offline", row["says"])] if "says" in row else [])


def test_output_of_kubectl_get_is_accepted() -> None:
    printed = manifest({"suspend": False}) | {"status": {"state": "Zero"}}
    printed["metadata"] |= {
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}\n"},
        "creationTimestamp": "2026-11-23T12:00:00Z",
        "generation": 3,
        "namespace": "speech",
        "resourceVersion": "4711",
        "uid": "5d0f4a10-2f7e-4a3e-8a43-5c8a3f3ad3f1",
    }
    assert problems(printed) == []


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in EXAMPLES])
def test_every_example_is_accepted(path: Path) -> None:
    assert problems(example(path)) == []


def test_validation_does_not_change_the_manifest() -> None:
    written = manifest({"schedule": {}})
    problems(written)
    assert written == manifest({"schedule": {}})


def test_every_problem_is_reported_with_its_path() -> None:
    spec = {"replicas": 0, "queue": {"maxWaiting": "many"}, "pod": {"imagePullPolicy": "Sometimes"}, "sizes": 1}
    assert problems(manifest(spec)) == [
        'unknown field "spec.sizes"',
        'spec.pod.imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"',
        'spec.queue.maxWaiting in body must be of type integer: "string"',
        "spec.replicas in body should be greater than or equal to 1",
    ]


def test_broken_rule_is_reported_with_its_message() -> None:
    assert problems(manifest({"idle": {"unloadAfter": "1h", "scaleToZeroAfter": "15m"}})) == [
        "spec.idle: choose a scaleToZeroAfter that is not shorter than unloadAfter (15m by default): the model is "
        "unloaded before its pod is removed"
    ]


@pytest.mark.parametrize(("status", "found"), STATUSES)
def test_only_unknown_fields_of_a_status_are_reported(status: object, found: list[str]) -> None:
    assert problems({**manifest({}), "status": status}) == found


def test_control_characters_are_escaped() -> None:
    [verdict] = verdicts(json.dumps(manifest({}, name="a\x1b[2Jb")))
    assert verdict.subject == "WhisperModel/a\\x1b[2Jb"


def test_null_stands_for_the_default() -> None:
    written = manifest({})
    written["spec"]["replicas"] = None
    assert problems(written) == []


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        pytest.param(
            {"timeZone": "Mars/Olympus_Mons"},
            "spec.schedule: there is no time zone 'Mars/Olympus_Mons'",
            id="a zone that does not exist",
        ),
        pytest.param(
            {"entries": [{"name": "never", "cron": "0 0 30 2 *", "state": "Zero"}]},
            "spec.schedule: the entry 'never' cannot fire",
            id="30 February in a cron",
        ),
        pytest.param(
            {"entries": [{"name": "late", "cron": "0 25 * * *", "state": "Zero"}]},
            "spec.schedule: the entry 'late' cannot fire",
            id="the hour 25 in a cron",
        ),
    ],
)
def test_operators_own_checks_are_included(schedule: Json, says: str) -> None:
    [problem] = problems(manifest({"schedule": schedule}))
    assert problem.startswith(says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"kind": "Deployment"}, "expected 'apiVersion: audio-transcriber.io/v1alpha1'", id="another kind"),
        pytest.param({"apiVersion": "v1"}, "found v1 and WhisperModel", id="another version"),
        pytest.param({"metadata": {}}, "metadata.name: Required value", id="no name"),
        pytest.param({"metadata": None}, "metadata.name: Required value", id="no metadata"),
        pytest.param({"metadata": {"name": 5}}, "metadata.name: Required value", id="a number for a name"),
        pytest.param({"spec": None}, "spec: Required value", id="no spec"),
        pytest.param({"specs": {}}, 'unknown field "specs"', id="a field beside the spec"),
    ],
)
def test_object_of_another_kind_is_reported(changes: Json, says: str) -> None:
    [problem] = problems({**manifest({}), **changes})
    assert says in problem


def test_missing_spec_is_reported() -> None:
    written = manifest({})
    del written["spec"]
    assert problems(written) == ["spec: Required value"]


def test_sexagesimal_number_is_rejected() -> None:
    [written] = manifests_in(OURS.replace("spec: {", "spec: {replicas: 1:30, "))
    assert problems(written) == ['spec.replicas in body must be of type integer: "string"']


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"---\n{CONFIG_MAP}\n---\n{OURS}\n", id="one after the other"),
        pytest.param(f"{{apiVersion: v1, kind: List, items: [{CONFIG_MAP}, {OURS}]}}", id="as a List"),
    ],
)
def test_objects_of_other_kinds_are_skipped(text: str) -> None:
    assert list(verdicts(text)) == [Verdict("ConfigMap/notes", is_ours=False), Verdict("WhisperModel/base")]


@pytest.mark.parametrize("kind", ["List", "WhisperModelList"])
def test_each_object_of_a_list_is_validated(kind: str) -> None:
    wrong = manifest({"replicas": 0}, name="wrong")
    text = json.dumps({"apiVersion": "v1", "kind": kind, "metadata": {}, "items": [manifest({}), wrong]})
    assert list(verdicts(text)) == [
        Verdict("WhisperModel/base"),
        Verdict("WhisperModel/wrong", ("spec.replicas in body should be greater than or equal to 1",)),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"kind": "WhisperModle"}, id="of our group"),
        pytest.param({"apiVersion": "audio-transcriber.io/v2"}, id="of another version"),
        pytest.param({"apiVersion": None}, id="without a version"),
        pytest.param({"kind": None}, id="without a kind"),
    ],
)
def test_misspelt_whispermodel_is_not_skipped(changes: Json) -> None:
    [verdict] = verdicts(json.dumps({**manifest({}), **changes}))
    assert verdict.is_ours
    assert verdict.problems


def test_file_with_several_objects() -> None:
    assert manifests_in("---\na: 1\n---\n\n---\nb: 2\n") == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    "text", ["", "# nothing", "just words", "a: [1", "- a: 1", "{kind: List, items: []}", "{kind: List, items: [1]}"]
)
def test_text_without_objects_is_rejected(text: str) -> None:
    with pytest.raises(UnreadableManifest):
        manifests_in(text)
