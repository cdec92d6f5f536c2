"""compose.yaml, and the guide for migrating from a crontab."""

from __future__ import annotations

import json
import re
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from testing.paths import ROOT
from tools.images import IMAGES
from whisper_inference.settings import setting_names
from whisper_operator.main import app
from whisper_operator.offline.validation import verdicts

PAGE = (ROOT / "docs" / "from-cron-to-schedule.md").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICE: dict[str, Any] = COMPOSE["services"]["audio-transcriber"]
FORECASTS = re.findall(
    r"^\$ ((?:printf .* \| )?whisper-operator forecast .*)\n((?:.+\n)+?)```", PAGE, flags=re.MULTILINE
)


@pytest.fixture(scope="module")
def specification() -> Draft202012Validator:
    """The JSON schema of the Compose specification, from check-jsonschema."""
    schema = files("check_jsonschema.builtin_schemas.vendor").joinpath("compose-spec.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(schema))


def interpolated(text: str) -> str:
    """Substitute the defaults of variables, as Compose does if none is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def blocks(language: str) -> list[str]:
    """Return the code blocks of the page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_it_is_valid(specification: Draft202012Validator) -> None:
    assert [error.message for error in specification.iter_errors(COMPOSE)] == []


def test_the_schema_rejects_a_misspelled_key(specification: Draft202012Validator) -> None:
    wrong = {"services": {"audio-transcriber": {**SERVICE, "read_ony": True}}}
    assert [error.message for error in specification.iter_errors(wrong)] != []


def test_the_documented_gpu_override_is_valid(specification: Draft202012Validator) -> None:
    [override] = [block for block in blocks("yaml") if "nvidia" in block]
    added = yaml.safe_load(override)
    assert list(specification.iter_errors(added)) == []
    assert added["services"].keys() == COMPOSE["services"].keys()


def test_it_runs_the_image_that_the_page_builds() -> None:
    made = re.search(r"^\$ make images ARGS=(\S+)\n\$ docker compose up", PAGE, flags=re.MULTILINE)
    assert made is not None
    assert interpolated(SERVICE["image"]) == IMAGES[made[1]].reference


def test_it_does_not_build_an_image() -> None:
    assert "build" not in SERVICE


def test_it_can_write_only_to_volumes() -> None:
    mounts = [volume.rsplit(":", 1) if volume.endswith(":ro") else [volume, "rw"] for volume in SERVICE["volumes"]]
    writable = {mount.split(":")[-1] for mount, mode in mounts if mode == "rw"}
    assert SERVICE["read_only"] is True
    assert {*writable, *SERVICE["tmpfs"]} == {"/var/lib/whisper", "/models", "/tmp"}


def test_it_runs_unprivileged() -> None:
    assert SERVICE["user"] == "65532:65532"
    assert SERVICE["cap_drop"] == ["ALL"]
    assert SERVICE["security_opt"] == ["no-new-privileges:true"]
    assert SERVICE["init"] is True


def test_the_port_is_bound_to_localhost() -> None:
    assert SERVICE["ports"] == ["127.0.0.1:8002:8002"]


def test_its_settings_exist() -> None:
    assert SERVICE["environment"].keys() <= setting_names()


def test_its_model_file_is_valid() -> None:
    folder = interpolated(SERVICE["volumes"][0]).removesuffix(":/etc/whispermodel:ro")
    name = Path(interpolated(SERVICE["environment"]["WHISPER_MODEL_FILE"]))
    assert name.parent == Path("/etc/whispermodel")
    text = (ROOT / folder / name.name).read_text(encoding="utf-8")
    [verdict] = verdicts(text)
    assert verdict.is_ours
    assert verdict.problems == ()


def test_the_healthcheck_compiles() -> None:
    *command, program = SERVICE["healthcheck"]["test"]
    assert command == ["CMD", "python", "-Ic"]
    compile(program, "healthcheck", "exec")


def test_the_page_shows_the_example() -> None:
    [shown] = [block for block in blocks("yaml") if "kind: WhisperModel" in block]
    example = (ROOT / "examples" / "nightly-unload.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(shown) == yaml.safe_load(example)


def test_the_schedule_matches_the_crontab() -> None:
    [crontab] = blocks("cron")
    lines = re.findall(r"^((?:\S+ ){5}) *curl .*/model/(un)?load$", crontab, flags=re.MULTILINE)
    wanted = {(fields.strip(), "Unloaded" if un else "Loaded") for fields, un in lines}
    example = yaml.safe_load((ROOT / "examples" / "nightly-unload.yaml").read_text(encoding="utf-8"))
    assert {(entry["cron"], entry["state"]) for entry in example["spec"]["schedule"]["entries"]} == wanted


@pytest.mark.parametrize(("command", "printed"), FORECASTS, ids=[str(number) for number in range(len(FORECASTS))])
def test_the_forecasts_on_the_page_are_accurate(command: str, printed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    piped, _, forecast = command.rpartition(" | ")
    given = shlex.split(piped)[1].replace("\\n", "\n") if piped else None
    answer = CliRunner().invoke(app, shlex.split(forecast)[1:], input=given)
    assert answer.exit_code == 0, answer.output
    assert answer.output == printed


def test_the_page_has_forecasts() -> None:
    assert len(FORECASTS) == 3
