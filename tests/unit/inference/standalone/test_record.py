"""What an obeying server remembers over a restart."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from whisper_inference.standalone.record import Record, RecordFile, digest_of
from whispermodel.spec import Mode, Spec, State
from whispermodel.status import Manual, Status

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
RECORD = Record(
    generation=3,
    digest="abc",
    manual=Manual(state=Mode.UNLOADED, at=NOON),
    status=Status(state=State.LOADED, idle_since=NOON, spec_since=NOON, recent_start_seconds=(1.5, 2.5)),
)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_what_was_saved_is_read_by_the_next_server(tmp_path: Path) -> None:
    await RecordFile(tmp_path / "model.json").save(RECORD)
    assert RecordFile(tmp_path / "model.json").read() == RECORD
    assert names_in(tmp_path) == ["model.json"]


def test_the_first_start_remembers_nothing(tmp_path: Path) -> None:
    assert RecordFile(tmp_path / "model.json").read() == Record()


@pytest.mark.parametrize("content", [b"", b"{", b'{"generation": "many"}', b"\xff"])
def test_a_file_that_cannot_be_read_counts_as_none_and_the_log_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.json").write_bytes(content)
    with structlog.testing.capture_logs() as logs:
        assert RecordFile(tmp_path / "model.json").read() == Record()
    assert [line["event"] for line in logs] == ["model.record_unreadable"]


async def test_a_folder_that_takes_nothing_stops_nobody(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        await RecordFile(tmp_path / "nowhere" / "model.json").save(RECORD)
    assert [line["event"] for line in logs] == ["model.record_not_saved"]


def test_a_digest_tells_specs_apart_and_not_how_they_are_written() -> None:
    one = Spec.model_validate({"model": {"size": "base"}, "idle": {"unloadAfter": "90s"}})
    same = Spec.model_validate({"idle": {"unloadAfter": "1m30s"}, "model": {"size": "base"}, "suspend": False})
    other = Spec.model_validate({"model": {"size": "base"}, "idle": {"unloadAfter": "91s"}})
    assert digest_of(one) == digest_of(same)
    assert digest_of(one) != digest_of(other)
