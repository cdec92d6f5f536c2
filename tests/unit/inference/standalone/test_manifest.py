"""The model file: what is accepted, what is rejected with which message, and which settings it overrides."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from testing.controller_harness import manifest
from testing.manifests import EXAMPLES
from whisper_inference.settings import Settings
from whisper_inference.standalone.manifest import ManifestError, read_manifest, settings_of, without_effect
from whispermodel.catalog import Engine
from whispermodel.spec import Spec
from whispermodel.states import Mode

HEAD = "apiVersion: audio-transcriber.io/v1alpha1\nkind: WhisperModel\nmetadata: {name: test}\n"


def refusal(path: Path, text: str) -> ManifestError:
    path.write_text(text)
    with pytest.raises(ManifestError) as refused:
        read_manifest(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
    return refused.value


def test_minimal_file_names_only_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(f"{HEAD}spec: {{model: {{size: base}}}}\n")
    found = read_manifest(path)
    assert (found.name, found.spec) == ("test", Spec.model_validate({"model": {"size": "base"}}))


def test_examples_exist() -> None:
    assert len(EXAMPLES) > 10


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_cluster_example_is_a_valid_model_file(path: Path) -> None:
    found = read_manifest(path)
    assert Spec.model_validate(found.document, by_name=False) == found.spec


def test_json_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(manifest(desiredState="Zero")))
    assert read_manifest(path).spec.desired_state is Mode.ZERO


def test_kubectl_output_is_accepted(tmp_path: Path) -> None:
    whole = manifest() | {"status": {"state": "Loaded"}}
    whole["metadata"] |= {"namespace": "default", "uid": "1", "annotations": {"note": "x"}}
    path = tmp_path / "model.yaml"
    path.write_text("---\n" + yaml.safe_dump(whole) + "---\n")
    assert read_manifest(path).name == "test"


def test_unquoted_times_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(
        f"{HEAD}spec: {{model: {{size: base}}, override: {{state: Loaded, until: 2026-11-27T23:00:00-03:00}}}}"
    )
    override = read_manifest(path).spec.override
    assert override is not None
    assert override.until.utcoffset() == timedelta(hours=-3)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{}", "spec.model is missing"),
        ("{model: {}}", "spec.model.size is missing"),
        ("{model: {size: huge}}", "there is no Whisper model 'huge'; choose one of: tiny, "),
        ("{model: {size: base, computeType: int8}}", "runs only with the engine faster-whisper"),
        ("{model: {size: base}, desiredState: On}", "spec.desiredState: Input should be 'Zero', 'Unloaded', 'Auto'"),
        ("{model: {size: base}, desiredstate: Zero}", "spec.desiredstate is not a field: did you mean desiredState?"),
        ("{model: {size: base}, idle: {unload_after: 1m}}", "spec.idle.unload_after is not a field: did you mean"),
        ("{model: {size: base}, xyzzy: 1}", "spec.xyzzy is not a field: remove it"),
        ("{model: {size: base}, idle: {unloadAfter: 5 minutes}}", "spec.idle.unloadAfter: '5 minutes' is not a dur"),
        ("{model: {size: base}, idle: {unloadAfter: 1h, scaleToZeroAfter: 1m}}", "must not be shorter"),
        ("{model: {size: base}, schedule: {leadTime: soon}}", "spec.schedule.leadTime: "),
        (
            "{model: {size: base}, schedule: {entries: [{name: a, cron: '@daily', state: Zero}]}}",
            "spec.schedule.entries.0.cron: write five fields",
        ),
        ("{model: {size: base}, override: {state: Loaded, until: 2026-11-27T23:00:00}}", "spec.override.until: "),
    ],
)
def test_invalid_field_is_named_with_a_fix(tmp_path: Path, spec: str, words: str) -> None:
    error = refusal(tmp_path / "model.yaml", f"{HEAD}spec: {spec}\n")
    assert words in str(error)
    assert error.reason == "InvalidModelFile"


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("{timeZone: Europe/Atlantis}", "there is no time zone 'Europe/Atlantis'"),
        ("{entries: [{name: never, cron: '0 0 30 2 *', state: Zero}]}", "'never' "),
        ("{entries: [{name: odd, cron: '0 25 * * *', state: Zero}]}", "'odd' cannot fire"),
    ],
)
def test_invalid_schedule_has_its_own_reason(tmp_path: Path, schedule: str, words: str) -> None:
    error = refusal(tmp_path / "model.yaml", f"{HEAD}spec: {{model: {{size: base}}, schedule: {schedule}}}\n")
    assert words in str(error)
    assert error.reason == "InvalidSchedule"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected one WhisperModel (audio-transcriber.io/v1alpha1), found 0 documents"),
        ("[1]", "found something else"),
        ("a: 1\n---\nb: 2\n", "found 2 documents"),
        ("a: [1\n", "it is not YAML: line 2"),
        ("? [a]\n: 1\n", "line 1, a field name that is not a string"),
        ("\na: !!int x\n", "it is not YAML: line 2, not a valid int"),
        ("a: !!bool x\n", "line 1, not a valid bool"),
        ("a: !!python/object:os.system {}\n", "could not determine a constructor"),
        ("a: \x00\n", "a character that YAML does not allow"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {model: {size: base}}\n", "kind: Input should be 'Whi"),
        (f"{HEAD.replace('test', 'Test_1')}spec: {{model: {{size: base}}}}", "metadata.name: 'Test_1' is not a"),
        (f"{HEAD.replace('{name: test}', '{}')}spec: {{model: {{size: base}}}}", "metadata.name is missing"),
        ("[" * 5000, "it is not YAML"),
        ("#" * (2**18 + 1), "it is longer than 262144 bytes"),
        ("a: &x [*x]\n", "nested more than 64 levels deep, or contains itself"),
        (f"{HEAD}spec: {{model: {{size: base}}, replicas: 1:30}}\n", "spec.replicas: "),
        (f"{HEAD.replace('{name: test}', '{name: a, labels: {b: 1}}')}spec: {{}}", "metadata.labels.b: Input should"),
    ],
    ids=lambda text: text[:30],
)
def test_other_kinds_are_rejected(tmp_path: Path, text: str, words: str) -> None:
    assert words in str(refusal(tmp_path / "model.yaml", text))


def test_binary_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="not UTF-8 text"):
        read_manifest(path)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_special_file_is_rejected_without_blocking(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "model.yaml")
    with pytest.raises(ManifestError, match=r"not a regular file|Is a directory"):
        read_manifest(tmp_path / "model.yaml")


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    error = refusal(tmp_path / "model.yaml", f"{HEAD}spec: {{model: {{size: huge}}, suspend: maybe, replicas: 0}}\n")
    assert all(f"spec.{field}" in str(error) for field in ("model", "suspend", "replicas"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere\.yaml cannot be used: it cannot be read \(No such file.*check"):
        read_manifest(tmp_path / "nowhere.yaml")


def test_file_without_read_permission_gets_other_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(ManifestError, match=r"Permission denied\); make it readable"):
        read_manifest(tmp_path / "model.yaml")


def test_model_file_overrides_the_models_settings() -> None:
    base = Settings(
        model="large-v3",
        model_path=Path("/srv/large.pt"),
        model_sha256="0" * 64,
        unload_after=timedelta(minutes=1),
    )
    model = {"size": "turbo", "engine": "faster-whisper", "computeType": "int8", "device": "cpu"}
    settings = settings_of(Spec.model_validate({"model": model}), base)
    assert (settings.model, settings.engine) == ("large-v3-turbo", Engine.FASTER_WHISPER)
    assert (settings.compute_type, settings.device) == ("int8", "cpu")
    assert (settings.model_path, settings.model_sha256) == (None, None)
    assert (settings.preload_model, settings.unload_after) == (False, None)


def test_source_sets_path_and_digest() -> None:
    model = {"size": "base", "source": {"path": "/models/base.pt", "sha256": "a" * 64}}
    settings = settings_of(Spec.model_validate({"model": model}), Settings())
    assert (settings.model_path, settings.model_sha256) == (Path("/models/base.pt"), "a" * 64)


def test_only_given_queue_limits_override_settings() -> None:
    base = Settings(max_waiting=7, max_wait=timedelta(seconds=70), max_stored_bytes=2**31)
    named = settings_of(Spec.model_validate({"model": {"size": "base"}, "queue": {"maxWaiting": 3}}), base)
    assert (named.max_waiting, named.max_wait, named.max_stored_bytes) == (3, timedelta(seconds=70), 2**31)


def test_upload_limit_never_exceeds_the_total() -> None:
    spec = Spec.model_validate({"model": {"size": "base"}, "queue": {"maxAudioBytes": "10Mi"}})
    settings = settings_of(spec, Settings())
    assert (settings.max_stored_bytes, settings.max_audio_bytes) == (10 * 2**20, 10 * 2**20)


def test_fields_without_effect_are_listed() -> None:
    spec = Spec.model_validate({"model": {"size": "base"}, "replicas": 2, "pod": {"image": "x"}})
    assert without_effect(spec) == ["spec.pod", "spec.replicas"]
    assert without_effect(Spec.model_validate({"model": {"size": "base"}})) == []
