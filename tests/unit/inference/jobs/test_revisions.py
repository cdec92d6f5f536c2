"""The tables of earlier releases are upgraded in place; those of later releases and of other programs are rejected."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.engine.interfaces import ReflectedIndex

from testing.jobs import Clock, leased
from whisper_inference import errors
from whisper_inference.jobs import revisions
from whisper_inference.jobs.database import open_database, sqlite_url
from whisper_inference.jobs.job import BACKGROUND_DELAY, LOCAL, Status
from whisper_inference.jobs.schema import REVISION
from whisper_inference.jobs.store import JobStore

FIRST_RELEASE = """
CREATE TABLE schema_version (version INTEGER NOT NULL, PRIMARY KEY (version));
INSERT INTO schema_version VALUES (1);
CREATE TABLE jobs (
    number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, id VARCHAR(36) NOT NULL, status VARCHAR(16) NOT NULL,
    options JSON NOT NULL, filename TEXT NOT NULL, audio_key VARCHAR(255) NOT NULL, audio_size BIGINT NOT NULL,
    audio_sha256 VARCHAR(64) NOT NULL, audio_held BOOLEAN NOT NULL, audio_seconds FLOAT,
    principal VARCHAR(255) NOT NULL,
    synchronous BOOLEAN NOT NULL, idempotency_key VARCHAR(255), fingerprint VARCHAR(64) NOT NULL,
    created_at BIGINT NOT NULL, started_at BIGINT, finished_at BIGINT, attempts INTEGER NOT NULL,
    attempt_token VARCHAR(64), progress FLOAT NOT NULL, language VARCHAR(16), next_start_sample BIGINT NOT NULL,
    previous_text TEXT, error JSON, waiting_for JSON,
    CONSTRAINT one_job_per_idempotency_key UNIQUE (principal, idempotency_key), UNIQUE (id), UNIQUE (attempt_token)
);
CREATE INDEX jobs_by_status ON jobs (status, number);
CREATE INDEX jobs_by_end ON jobs (finished_at);
CREATE TABLE sections (
    job_id VARCHAR(36) NOT NULL, position INTEGER NOT NULL, text TEXT NOT NULL, segment_count INTEGER NOT NULL,
    segments TEXT NOT NULL, PRIMARY KEY (job_id, position),
    FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
"""
"""As 0.1.0 creates them; its first builds lack the index jobs_by_principal."""

OWNER_INDEX = "CREATE INDEX jobs_by_principal ON jobs (principal, number);"

INSERT_JOB = """
INSERT INTO jobs (id, status, options, filename, audio_key, audio_size, audio_sha256, audio_held, principal,
    synchronous, fingerprint, created_at, finished_at, attempts, attempt_token, progress, next_start_sample, error)
VALUES (:id, :status, '{"language": "pt"}', 'a.flac', :audio, 10, '00', 1, 'ana', :waits, 'f', 1772352000000000,
    :finished, 1, :token, 0.5, 16000, :error)
"""
INSERT_SECTION = "INSERT INTO sections VALUES (:id, 0, ' Olá.', 0, '[]')"
FINISHED = 1772352005000000


def first_release(folder: Path, script: str = FIRST_RELEASE + OWNER_INDEX) -> None:
    """Store a job of each status, and one whose client waits, as 0.1.0 does."""
    with contextlib.closing(sqlite3.connect(folder / "jobs.sqlite3")) as database, database:
        database.executescript(script)
        for status in Status:
            insert_job(database, status.value, status)
        insert_job(database, "waiting", Status.QUEUED)


def insert_job(database: sqlite3.Connection, name: str, status: Status) -> None:
    row = {
        "id": name,
        "status": status.value,
        "audio": f"audio/{name}",
        "waits": name == "waiting",
        "finished": FINISHED if status.final else None,
        "token": "t" if status is Status.RUNNING else None,
        "error": '{"code": "worker-lost", "params": {}}' if status is Status.FAILED else None,
    }
    database.execute(INSERT_JOB, row)
    database.execute(INSERT_SECTION, {"id": name})


@contextlib.asynccontextmanager
async def opened(folder: Path):
    store = JobStore(open_database(sqlite_url(folder)), clock=Clock(), new_token=lambda: "new")
    try:
        yield store
    finally:
        await store.database.close()


def index_of(reflected: ReflectedIndex) -> tuple[str | None, list[str | None], bool, str]:
    condition = reflected.get("dialect_options", {}).get("sqlite_where")
    return reflected["name"], reflected["column_names"], reflected["unique"], str(condition)


def tables(connection: Connection) -> dict[str, object]:
    """Return all that SQLAlchemy finds out about the tables."""
    found = inspect(connection)
    return {
        name: (
            [{**column, "type": str(column["type"])} for column in found.get_columns(name)],
            found.get_pk_constraint(name),
            sorted(map(index_of, found.get_indexes(name))),
            sorted(map(repr, found.get_unique_constraints(name))),
            found.get_foreign_keys(name),
        )
        for name in found.get_table_names()
    }


@pytest.mark.parametrize("script", [FIRST_RELEASE, FIRST_RELEASE + OWNER_INDEX], ids=["first build", "0.1.0"])
async def test_upgraded_tables_equal_new_ones(tmp_path: Path, script: str) -> None:
    seen: list[dict[str, object]] = []
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        if name == "old":
            first_release(tmp_path / name, script)
        async with opened(tmp_path / name) as store:
            await store.prepare()
            seen.append(await store.database.transact(tables))
    assert seen[0] == seen[1]


async def test_upgrade_keeps_every_job_and_its_text(tmp_path: Path) -> None:
    first_release(tmp_path)
    async with opened(tmp_path) as store:
        await store.prepare()
        jobs = (await store.page()).jobs
        assert [(job.id, job.model) for job in jobs[::-1]] == [(name, LOCAL) for name in (*map(str, Status), "waiting")]
        assert {job.status for job in jobs} == set(Status)
        assert [await store.text(job.id) for job in jobs] == [" Olá."] * len(jobs)
        assert len(await store.stored_audio()) == len(jobs)
        await store.succeed("t", 1.0)


async def test_upgraded_jobs_are_due_by_the_rule_of_new_ones(tmp_path: Path) -> None:
    first_release(tmp_path)
    async with opened(tmp_path) as store:
        await store.prepare()
        ahead = await store.ahead("queued")
        assert ahead is not None
        assert ahead.jobs == 1
        assert (await leased(store)).job.id == "waiting"
        queued = await store.get("queued")
        assert queued.due_at == queued.created_at + BACKGROUND_DELAY


async def test_first_release_rejects_upgraded_and_new_tables(tmp_path: Path) -> None:
    first_release(tmp_path)
    for folder in (tmp_path, tmp_path / "new"):
        folder.mkdir(exist_ok=True)
        async with opened(folder) as store:
            await store.prepare()
        with contextlib.closing(sqlite3.connect(folder / "jobs.sqlite3")) as database:
            assert database.execute("SELECT version FROM schema_version").fetchall() == [(2,)]


def dump(folder: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(folder / "jobs.sqlite3")) as database:
        return list(database.iterdump())


async def test_failed_upgrade_changes_nothing(tmp_path: Path) -> None:
    # The last step of an upgrade fails: the index that it creates last exists.
    first_release(tmp_path, FIRST_RELEASE + "CREATE INDEX jobs_by_model ON jobs (id);")
    before = dump(tmp_path)
    async with opened(tmp_path) as store:
        with pytest.raises(errors.StorageUnusable, match="jobs_by_model"):
            await store.prepare()
    assert dump(tmp_path) == before


START = """
import asyncio, sys
from pathlib import Path
from whisper_inference.jobs.database import open_database, sqlite_url
from whisper_inference.jobs.store import JobStore
async def main(folder):
    store = JobStore(open_database(sqlite_url(Path(folder))), clock=None, new_token=None)
    await store.prepare()
    await store.database.close()
asyncio.run(main(sys.argv[1]))
sys.exit("alembic" in sys.modules)
"""


def test_start_on_current_tables_writes_nothing_and_imports_no_alembic(tmp_path: Path) -> None:
    start = [sys.executable, "-c", START, str(tmp_path)]
    subprocess.run(start, check=True, timeout=60)
    before = dump(tmp_path)
    subprocess.run(start, check=True, timeout=60)
    assert dump(tmp_path) == before


def test_revision_is_the_last_migration() -> None:
    config = Config()
    config.set_main_option("script_location", revisions.SCRIPTS)
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_current_head() == REVISION
    for script in scripts.walk_revisions():
        assert Path(script.path).name.startswith(f"r{script.revision}_")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("DROP INDEX jobs_by_status", id="without an index of ours"),
        pytest.param("ALTER TABLE jobs RENAME COLUMN principal TO tenant", id="without a column of ours"),
    ],
)
async def test_newer_tables_are_rejected_unchanged(store: JobStore, tmp_path: Path, change: str) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '0099'")
        database.execute(change)
    before = dump(tmp_path)
    with pytest.raises(errors.DataFolderTooNew, match="99"):
        await store.prepare()
    assert dump(tmp_path) == before


@pytest.mark.parametrize("content", ["no database", "another program's"])
async def test_foreign_database_is_rejected(tmp_path: Path, content: str) -> None:
    path = tmp_path / "jobs.sqlite3"
    if content == "no database":
        path.write_bytes(b"no database" * 1000)
    else:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE jobs (salary TEXT)")
    before = path.read_bytes()
    async with opened(tmp_path) as store:
        with pytest.raises(errors.StorageUnusable, match=str(path)):
            await store.prepare()
    assert path.read_bytes()[100:] == before[100:], "beyond the header, which names WAL now"
