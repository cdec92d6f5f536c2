"""Builds of images: what decides that one is built anew, how large it is, and the way to the index."""

from __future__ import annotations

import fcntl
import importlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tools.images import IMAGES, ImagesError, build
from tools.images.builders import Builder, Order, find_builder
from tools.images.catalog import ROOT, fingerprint, sources
from tools.images.index import index_secrets
from tools.images.sizes import sizes_over_base

BUILD = importlib.import_module("tools.images.build")
"""The module, whose name in its package is the function's."""


# Sizes


def archive_of(path: Path, *layers: tuple[str, int]) -> Path:
    """Write a docker-archive with layers of a digest and a size."""
    files = {
        "config.json": json.dumps({"rootfs": {"diff_ids": [digest for digest, _ in layers]}}).encode(),
        "manifest.json": json.dumps(
            [{"Config": "config.json", "Layers": [f"{one}.tar" for one, _ in layers]}]
        ).encode(),
        **{f"{digest}.tar": bytes(size) for digest, size in layers},
    }
    with tarfile.open(path, "w") as packed:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    return path


def test_an_image_is_as_large_as_its_layers_over_the_base_that_all_have(tmp_path: Path) -> None:
    archives = {
        "operator": archive_of(tmp_path / "1.tar", ("base", 700), ("slim", 7), ("operator", 10), ("code", 1)),
        "none": archive_of(tmp_path / "2.tar", ("base", 700), ("slim", 7), ("server", 20), ("code", 1)),
        "faster": archive_of(tmp_path / "3.tar", ("base", 700), ("slim", 7), ("server", 20), ("engine", 300)),
    }
    assert sizes_over_base(archives) == {"operator": 11, "none": 21, "faster": 320}


def test_images_of_one_kind_do_not_tell_where_their_base_ends(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match="export one of each"):
        sizes_over_base({"none": tmp_path / "none.tar", "faster": tmp_path / "faster.tar"})


# What decides that one is built anew


def test_each_image_has_a_name_of_its_own() -> None:
    references = [image.reference for image in IMAGES.values()]
    assert len(set(references)) == len(references)
    assert IMAGES["openai"].reference == "whisper-inference:0.1.0"


def test_an_image_is_made_of_its_own_sources() -> None:
    files = {str(file.relative_to(ROOT)) for file in sources(IMAGES["operator"])}
    assert {"deploy/images/operator.Dockerfile", "deploy/images/steps/settle", "pins/uv.txt"} <= files
    assert "operator/src/whisper_operator/main.py" in files
    assert not [file for file in files if file.startswith("inference/") or "__pycache__" in file]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the operator's image is made of."""
    for file in sources(IMAGES["operator"]):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)
    return tmp_path


def test_a_copy_of_the_sources_makes_the_same_image(checkout: Path) -> None:
    here = fingerprint(IMAGES["operator"], base=None)
    (checkout / "operator" / "src" / "whisper_operator" / "__pycache__").mkdir()
    (checkout / "operator" / "src" / "whisper_operator" / "__pycache__" / "main.pyc").touch()
    (checkout / "README.md").touch()
    assert fingerprint(IMAGES["operator"], base=None, root=checkout) == here


@pytest.mark.parametrize(
    "name",
    ["operator/src/whisper_operator/main.py", "deploy/images/operator.Dockerfile", "deploy/images/steps/install"],
)
def test_a_change_makes_another_image(checkout: Path, name: str) -> None:
    before = fingerprint(IMAGES["operator"], base=None, root=checkout)
    with (checkout / name).open("a") as file:
        file.write("\n")
    assert fingerprint(IMAGES["operator"], base=None, root=checkout) != before


def test_another_base_makes_another_image() -> None:
    assert len({fingerprint(IMAGES["none"], base=base) for base in (None, "debian:12", "debian:13")}) == 3


def test_an_archive_that_is_there_is_taken_without_any_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    archive = tmp_path / f"operator-{fingerprint(IMAGES['operator'], base='debian:12')}.tar"
    archive.touch()
    assert build(["operator"], tmp_path, base="debian:12") == {"operator": archive}


def test_a_machine_without_builders_is_told_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ImagesError, match=r"None of docker, podman, buildah works here: install one"):
        find_builder()


def test_an_unknown_name_is_answered_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match=r"There is no image 'large': take one of operator, none, faster"):
        build(["large"], tmp_path)


class Watched(Builder):
    """A builder that looks whether others could build meanwhile."""

    lock: Path
    seen: list[str]

    def build(self, order: Order) -> None:
        self._look("build")

    def export(self, reference: str, archive: Path) -> None:
        self._look("export")
        archive.touch()

    def _look(self, what: str) -> None:
        with self.lock.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.seen.append(what)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """The only builder of this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    builder = Watched("none", works=(), save=(), has=())
    object.__setattr__(builder, "lock", tmp_path / "whisper-operator" / "images.lock")
    object.__setattr__(builder, "seen", [])
    monkeypatch.setattr(BUILD, "find_builder", lambda: builder)
    return builder


def test_nobody_else_gives_an_image_its_name_between_its_build_and_its_export(watched: Watched, tmp_path: Path) -> None:
    [archive] = build(["none"], tmp_path / "archives", base="debian:12").values()
    assert archive.exists()
    assert watched.seen == ["build", "export"]


def test_an_image_whose_sources_change_while_it_is_built_is_not_kept_as_what_it_was_to_be(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUILD, "fingerprint", lambda image, *, base: "0" * 11 + str(len(watched.seen)))
    with pytest.raises(ImagesError, match="'none' is made of has changed"):
        build(["none"], tmp_path / "archives")
    assert watched.seen == ["build"]


# The way to the index


def test_without_a_word_in_the_environment_nothing_is_passed_on(tmp_path: Path) -> None:
    secrets = index_secrets({}, tmp_path)
    assert list(secrets) == ["index"]
    assert secrets["index"].read_text() == ""


def test_index_and_certificates_are_passed_on_to_both_installers(tmp_path: Path) -> None:
    url = "https://name:pa$$'word@index.example/simple"
    bundle = tmp_path / "bundle.crt"
    secrets = index_secrets({"PIP_INDEX_URL": url, "SSL_CERT_FILE": str(bundle), "HOME": "/root"}, tmp_path)
    assert secrets["ca"] == bundle
    said = sourced(secrets["index"])
    assert said == {
        "PIP_INDEX_URL": url,
        "UV_DEFAULT_INDEX": url,
        "PIP_CERT": "/run/secrets/ca",
        "SSL_CERT_FILE": "/run/secrets/ca",
    }


def sourced(script: Path) -> dict[str, str]:
    """Return what a shell exports after it has read a file."""
    command = ["/bin/sh", "-c", '. "$1"; /usr/bin/env -0', "sh", str(script)]
    text = subprocess.run(command, env={}, capture_output=True, text=True, check=True).stdout
    pairs = dict(line.split("=", 1) for line in text.split("\0") if line)
    return {name: value for name, value in pairs.items() if name not in {"PWD", "_", "SHLVL", "OLDPWD"}}
