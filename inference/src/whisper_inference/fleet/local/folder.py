"""The WhisperModels of a folder, one in each file: added, changed and removed while the gateway runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from whisper_inference.standalone.manifest import Manifest, ManifestError
from whisper_inference.standalone.watch import FileWatch

log = structlog.stdlib.get_logger(__name__)

_SUFFIXES = frozenset({".json", ".yaml", ".yml"})


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One WhisperModel of the folder."""

    path: Path
    """Its file."""
    manifest: Manifest
    """The file's last valid version."""
    problem: ManifestError | None = None
    """Why the latest version cannot be applied."""


@dataclass(slots=True)
class _File:
    """One file: its last valid version, and why the latest one is not that."""

    watch: FileWatch
    manifest: Manifest | None = None
    problem: ManifestError | None = None

    def take(self, found: Manifest | ManifestError) -> None:
        """Take a new version."""
        if isinstance(found, Manifest):
            self.manifest, self.problem = found, None
            return
        self.problem = found
        in_effect = "the last valid version" if self.manifest else "none"
        log.warning("model.file_unusable", reason=str(found), in_effect=in_effect)


class ModelFolder:
    """Reads the files of a folder whose names end in .yaml, .yml or .json."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[Path, _File] = {}
        self._missing: set[Path] = set()

    def read(self) -> dict[str, FoundModel]:
        """Return the models by name. Raises ManifestError if the folder cannot be read."""
        for path in self._paths():
            self._add(path)
        return self._models()

    def look(self) -> dict[str, FoundModel] | None:
        """Return the models by name if any file has changed since the last look. A folder that is gone has changed
        nothing: it may be mounted again."""
        try:
            there = self._paths()
        except ManifestError:
            return None
        changed = self._removed(there)
        for path in there:
            if path not in self._files:
                self._add(path)
                changed = True
            elif (found := self._files[path].watch.look()) is not None:
                self._files[path].take(found)
                changed = True
        return self._models() if changed else None

    def _paths(self) -> list[Path]:
        try:
            # Names with a dot in front are editors' and mounts' own.
            paths = [path for path in self.path.iterdir() if not path.name.startswith(".")]
        except OSError as error:
            why = f"it is not a folder that can be read ({error.strerror}); name a folder of WhisperModels, one a file"
            raise ManifestError(self.path, why) from None
        return sorted(path for path in paths if path.suffix in _SUFFIXES)

    def _add(self, path: Path) -> None:
        file = self._files[path] = _File(FileWatch(path))
        try:
            file.take(file.watch.read())
        except ManifestError as error:
            file.take(error)

    def _removed(self, there: list[Path]) -> bool:
        """Forget files that two looks in a row did not find: an editor may remove a file to write it again."""
        missing = self._files.keys() - set(there)
        gone, self._missing = missing & self._missing, missing
        for path in gone:
            del self._files[path]
        return bool(gone)

    def _models(self) -> dict[str, FoundModel]:
        models: dict[str, FoundModel] = {}
        for found in self._readable():
            name = found.manifest.name
            if (first := models.get(name)) is None:
                models[name] = found
                continue
            twice = ManifestError(found.path, f"{first.path} has a model of the same name, {name!r}; rename one")
            log.error("model.named_twice", reason=str(twice), in_effect=str(first.path))
            models[name] = FoundModel(first.path, first.manifest, first.problem or twice)
        return models

    def _readable(self) -> Iterator[FoundModel]:
        for path, file in self._files.items():
            if file.manifest is not None:
                yield FoundModel(path, file.manifest, file.problem)
