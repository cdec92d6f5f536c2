"""A folder of models on a real file system."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from testing.controller_harness import manifest, write
from whisper_inference.fleet.local.folder import FoundModel, ModelFolder
from whisper_inference.standalone.manifest import ManifestError


def named(name: str, size: str = "tiny") -> dict[str, object]:
    return {**manifest(size), "metadata": {"name": name}}


def put(folder: Path, file: str, name: str, size: str = "tiny") -> Path:
    path = folder / file
    partial = folder / f".{file}.new"
    partial.write_text(yaml.safe_dump(named(name, size)))
    partial.replace(path)
    return path


def changed(folder: ModelFolder) -> dict[str, FoundModel]:
    """Return what the next look finds; a file that is being written needs two."""
    for _ in range(3):
        if (found := folder.look()) is not None:
            return found
    raise AssertionError("no change was seen")


def test_files_of_all_formats_are_read_and_others_skipped(tmp_path: Path) -> None:
    for file in ("a.yaml", "b.yml", "c.json"):
        put(tmp_path, file, file[0])
    (tmp_path / "notes.txt").write_text("not a model")
    (tmp_path / ".hidden.yaml").write_text("not a model")
    assert set(ModelFolder(tmp_path).read()) == {"a", "b", "c"}


def test_added_changed_and_removed_files_are_seen(tmp_path: Path) -> None:
    put(tmp_path, "a.yaml", "a")
    folder = ModelFolder(tmp_path)
    folder.read()
    assert folder.look() is None
    put(tmp_path, "b.yaml", "b")
    assert set(changed(folder)) == {"a", "b"}
    put(tmp_path, "b.yaml", "b", "base")
    assert changed(folder)["b"].manifest.spec.model.size == "base"
    (tmp_path / "a.yaml").unlink()
    assert set(changed(folder)) == {"b"}


def test_file_that_is_written_anew_is_not_taken_for_removed(tmp_path: Path) -> None:
    path = put(tmp_path, "a.yaml", "a")
    folder = ModelFolder(tmp_path)
    folder.read()
    path.unlink()
    assert folder.look() is None
    put(tmp_path, "a.yaml", "a", "base")
    assert changed(folder)["a"].manifest.spec.model.size == "base"


def test_invalid_version_leaves_the_last_valid_one_in_effect_and_says_so(tmp_path: Path) -> None:
    path = put(tmp_path, "a.yaml", "a")
    folder = ModelFolder(tmp_path)
    folder.read()
    (tmp_path / ".new").write_text("spec: [")
    (tmp_path / ".new").replace(path)
    found = changed(folder)["a"]
    assert found.manifest.spec.model.size == "tiny"
    assert "a.yaml" in str(found.problem)
    put(tmp_path, "a.yaml", "a")
    assert changed(folder)["a"].problem is None


def test_file_that_was_never_valid_does_not_keep_the_others_away(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", size="tiny")
    (tmp_path / "b.yaml").write_text("kind: Nonsense")
    assert len(ModelFolder(tmp_path).read()) == 1


def test_two_files_with_one_name_are_reported_with_both_paths(tmp_path: Path) -> None:
    put(tmp_path, "a.yaml", "same")
    put(tmp_path, "b.yaml", "same", "base")
    found = ModelFolder(tmp_path).read()["same"]
    assert found.manifest.spec.model.size == "tiny"
    assert "a.yaml" in str(found.problem)
    assert "b.yaml" in str(found.problem)


def test_unmounted_folder_changes_nothing(tmp_path: Path) -> None:
    inner = tmp_path / "models"
    inner.mkdir()
    put(inner, "a.yaml", "a")
    folder = ModelFolder(inner)
    folder.read()
    inner.rename(tmp_path / "elsewhere")
    assert folder.look() is None
    assert folder.look() is None


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not a folder"):
        ModelFolder(tmp_path / "nowhere").read()
