"""What a server with a model file remembers across restarts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from whisper_inference.standalone.record import Record, RecordFile, digest_of
from whispermodel.planning.modes import ManualCommand
from whispermodel.spec import Spec
from whispermodel.states import Mode, State
from whispermodel.status import Status

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
RECORD = Record(
    generation=3,
    digest="abc",
    manual=ManualCommand(Mode.UNLOADED, NOON),
    status=Status(state=State.LOADED, idle_since=NOON, spec_since=NOON, recent_start_seconds=(1.5, 2.5)),
)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_saved_record_is_read_back(tmp_path: Path) -> None:
    await RecordFile(tmp_path / "model.json").save(RECORD)
    assert RecordFile(tmp_path / "model.json").read() == RECORD
    assert names_in(tmp_path) == ["model.json"]


def test_missing_record_is_empty(tmp_path: Path) -> None:
    assert RecordFile(tmp_path / "model.json").read() == Record()


@pytest.mark.parametrize("content", [b"", b"{", b'{"generation": "many"}', b"\xff"])
def test_unreadable_record_is_empty_and_logged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.json").write_bytes(content)
    with structlog.testing.capture_logs() as logs:
        assert RecordFile(tmp_path / "model.json").read() == Record()
    assert [line["event"] for line in logs] == ["model.record_unreadable"]


async def test_failed_save_is_logged(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        await RecordFile(tmp_path / "nowhere" / "model.json").save(RECORD)
    assert [line["event"] for line in logs] == ["model.record_not_saved"]


def test_digest_depends_on_the_spec_not_on_its_spelling() -> None:
    one = Spec.model_validate({"model": {"size": "base"}, "idle": {"unloadAfter": "90s"}})
    same = Spec.model_validate({"idle": {"unloadAfter": "1m30s"}, "model": {"size": "base"}, "suspend": False})
    other = Spec.model_validate({"model": {"size": "base"}, "idle": {"unloadAfter": "91s"}})
    assert digest_of(one) == digest_of(same)
    assert digest_of(one) != digest_of(other)
