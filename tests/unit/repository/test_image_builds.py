"""Building images: when to rebuild, and access to the package index."""

from __future__ import annotations

import fcntl
import importlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tools.images import IMAGES, ImagesError, build
from tools.images.builders import Builder, Order
from tools.images.catalog import ROOT, fingerprint, sources
from tools.images.index import index_secrets

BUILD = importlib.import_module("tools.images.build")
"""The module; in the package, its name refers to the function."""


# When to rebuild


def test_sources_include_only_the_images_own() -> None:
    files = {str(file.relative_to(ROOT)) for file in sources(IMAGES["operator"])}
    assert {"deploy/images/operator.Dockerfile", "deploy/images/steps/settle", "pins/uv.txt"} <= files
    assert "operator/src/whisper_operator/main.py" in files
    assert not [file for file in files if file.startswith("inference/") or "__pycache__" in file]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources of the operator's image."""
    for file in sources(IMAGES["operator"]):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)
    return tmp_path


def test_a_copy_of_the_sources_has_the_same_fingerprint(checkout: Path) -> None:
    here = fingerprint(IMAGES["operator"], base=None)
    (checkout / "operator" / "src" / "whisper_operator" / "__pycache__").mkdir()
    (checkout / "operator" / "src" / "whisper_operator" / "__pycache__" / "main.pyc").touch()
    (checkout / "README.md").touch()
    assert fingerprint(IMAGES["operator"], base=None, root=checkout) == here


@pytest.mark.parametrize(
    "name",
    ["operator/src/whisper_operator/main.py", "deploy/images/operator.Dockerfile", "deploy/images/steps/install"],
)
def test_a_change_alters_the_fingerprint(checkout: Path, name: str) -> None:
    before = fingerprint(IMAGES["operator"], base=None, root=checkout)
    with (checkout / name).open("a") as file:
        file.write("\n")
    assert fingerprint(IMAGES["operator"], base=None, root=checkout) != before


def test_the_base_alters_the_fingerprint() -> None:
    assert len({fingerprint(IMAGES["none"], base=base) for base in (None, "debian:12", "debian:13")}) == 3


class Watched(Builder):
    """A builder that checks that the lock is held."""

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
    """The only builder on this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    builder = Watched("none", works=(), save=(), has=())
    object.__setattr__(builder, "lock", tmp_path / "whisper-operator" / "images.lock")
    object.__setattr__(builder, "seen", [])
    monkeypatch.setattr(BUILD, "find_builder", lambda: builder)
    return builder


def test_the_lock_is_held_from_build_to_export(watched: Watched, tmp_path: Path) -> None:
    [archive] = build(["none"], tmp_path / "archives", base="debian:12").values()
    assert archive.exists()
    assert watched.seen == ["build", "export"]


def test_an_image_is_discarded_if_its_sources_change_during_the_build(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUILD, "fingerprint", lambda image, *, base: "0" * 11 + str(len(watched.seen)))
    with pytest.raises(ImagesError, match="The sources of 'none' changed during the build"):
        build(["none"], tmp_path / "archives")
    assert watched.seen == ["build"]


# Access to the package index


def test_index_and_certificates_are_passed_to_both_installers(tmp_path: Path) -> None:
    url = "https://name:pa$$'word@index.example/simple"
    bundle = tmp_path / "bundle.crt"
    secrets = index_secrets({"PIP_INDEX_URL": url, "SSL_CERT_FILE": str(bundle), "HOME": "/root"}, tmp_path)
    assert secrets["ca"] == bundle
    exported = sourced(secrets["index"])
    assert exported == {
        "PIP_INDEX_URL": url,
        "UV_DEFAULT_INDEX": url,
        "PIP_CERT": "/run/secrets/ca",
        "SSL_CERT_FILE": "/run/secrets/ca",
    }


def sourced(script: Path) -> dict[str, str]:
    """Return the variables that a shell exports after sourcing a file."""
    command = ["/bin/sh", "-c", '. "$1"; /usr/bin/env -0', "sh", str(script)]
    text = subprocess.run(command, env={}, capture_output=True, text=True, check=True).stdout
    pairs = dict(line.split("=", 1) for line in text.split("\0") if line)
    return {name: value for name, value in pairs.items() if name not in {"PWD", "_", "SHLVL", "OLDPWD"}}
