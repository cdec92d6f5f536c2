"""What only a database server brings: several processes at once, lost connections, and errors of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from testing.jobs import START, Clock, Elapse, job, leased, section
from testing.postgresql import HOW_TO_GET_IT, PostgresqlServer, binaries, running
from whisper_inference.errors import DatabaseUnavailable, DiskFull, TooManyStoredBytes
from whisper_inference.jobs.database import open_database
from whisper_inference.jobs.job import LEASE, LOCAL, Added, Existing, Status
from whisper_inference.jobs.quota import Quota, Upload
from whisper_inference.jobs.store import JobStore

pytestmark = pytest.mark.parametrize("database", ["postgresql"], indirect=True)

OWNERS = [f"gateway-{number}" for number in range(4)]


def execute(server: PostgresqlServer, store: JobStore, statement: str) -> None:
    server.execute(store.database.engine.url.database or "", statement)


async def test_owners_that_lease_at_once_get_each_job_once(store: JobStore, stores: Callable[[str], JobStore]) -> None:
    names = {f"j{number}" for number in range(60)}
    for name in names:
        await store.add(job(name))
    owners = [stores(name) for name in OWNERS]

    async def lease_all(owner: JobStore) -> list[str]:
        leased: list[str] = []
        while lease := await owner.lease(LOCAL):
            leased.append(lease.job.id)
        return leased

    # Rows that another owner is just leasing are skipped, so an owner may find nothing before the queue is empty.
    got = list(itertools.chain.from_iterable(await asyncio.gather(*map(lease_all, owners * 4))))
    assert Counter(got) == Counter(names)


async def test_gone_owners_attempts_are_taken_over_once(
    store: JobStore, stores: Callable[[str], JobStore], elapse: Elapse
) -> None:
    for number in range(20):
        await store.add(job(f"j{number}"))
        await leased(store)
    await elapse(LEASE)
    taken = await asyncio.gather(*(stores(name).take_over("gone") for name in OWNERS))
    assert Counter(name for one in taken for name in one.requeued) == Counter(f"j{number}" for number in range(20))
    assert {one.attempts for one in (await store.page()).jobs} == {1}


async def test_lease_runs_by_the_clock_of_the_database(store: JobStore, stores: Callable[[str], JobStore]) -> None:
    # The process's clock is months behind.
    assert datetime.now(UTC) - timedelta(days=30) > START
    await store.add(job("a"))
    await leased(store)
    assert (await stores("other").take_over("gone")).requeued == ()


async def test_key_that_comes_to_all_owners_at_once_is_one_job(
    store: JobStore, stores: Callable[[str], JobStore]
) -> None:
    owners = [stores(name) for name in OWNERS]
    outcomes = await asyncio.gather(*(owner.add(job(owner.owner, key="k")) for owner in owners))
    assert Counter(type(outcome) for outcome in outcomes) == {Added: 1, Existing: 3}


async def test_owners_that_reserve_at_once_stay_within_the_quota(
    store: JobStore, stores: Callable[[str], JobStore], clock: Clock
) -> None:
    async def reserve(number: int) -> int:
        owner = stores(f"gateway-{number}")
        quota = Quota(database=owner.database, clock=clock, limit_bytes=1000, owner=owner.owner)
        try:
            return await quota.reserve(Upload(f"audio/{number}", LOCAL, "ana"), needed=300, wanted=300)
        except TooManyStoredBytes:
            return 0

    assert sorted(await asyncio.gather(*map(reserve, range(8)))) == [0] * 5 + [300] * 3


async def test_processes_that_start_at_once_create_the_tables_once(database: str, clock: Clock) -> None:
    starting = [JobStore(open_database(database), clock=clock, new_token=str) for _ in range(4)]
    await asyncio.gather(*(store.prepare() for store in starting))
    assert await starting[0].counts() == dict.fromkeys(Status, 0)
    for store in starting:
        await store.database.close()


async def test_full_disk_of_the_server_is_a_full_disk(store: JobStore, postgresql: PostgresqlServer) -> None:
    await store.add(job("a"))
    lease = await leased(store)
    full = "BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END"
    execute(postgresql, store, f"CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ {full} $$")
    trigger = "CREATE TRIGGER full_disk BEFORE INSERT ON sections EXECUTE FUNCTION full_disk()"
    execute(postgresql, store, trigger)
    with pytest.raises(DiskFull):
        await store.append_section(lease.token, section(" One.", end=16_000))
    assert (await store.get("a")).progress == 0.0


async def test_connection_that_is_cut_off_between_calls_is_replaced(
    store: JobStore, postgresql: PostgresqlServer
) -> None:
    await store.add(job("a"))
    execute(postgresql, store, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    assert (await store.get("a")).id == "a"


async def test_connection_that_is_cut_off_during_a_call_is_reported(
    store: JobStore, postgresql: PostgresqlServer
) -> None:
    await store.add(replace(job("a"), filename="cut"))
    die = "BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END"
    execute(postgresql, store, f"CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ {die} $$")
    execute(postgresql, store, "CREATE TRIGGER die BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION die()")
    with pytest.raises(DatabaseUnavailable, match="administrator command"):
        await store.lease(LOCAL)
    assert (await store.get("a")).status is Status.QUEUED


@pytest.fixture
def own_server(postgresql: PostgresqlServer) -> Iterator[PostgresqlServer]:
    """A server that the test may stop."""
    programs = binaries()
    assert programs is not None, HOW_TO_GET_IT
    with running(programs) as server:
        yield server


async def test_server_that_is_away_is_reported_and_used_again_when_it_is_back(
    own_server: PostgresqlServer, database: str, clock: Clock
) -> None:
    store = JobStore(open_database(own_server.new_database()), clock=clock, new_token=str)
    await store.prepare()
    await store.add(job("a"))
    await asyncio.to_thread(own_server.stop)
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            await store.get("a")
    with pytest.raises(DatabaseUnavailable):
        await store.prepare()
    await asyncio.to_thread(own_server.start)
    assert (await store.get("a")).id == "a"
    await store.database.close()


def test_options_in_the_url_win(database: str) -> None:
    engine = open_database(make_url(database).update_query_dict({"connect_timeout": "3"}).render_as_string()).engine
    arguments, options = engine.dialect.create_connect_args(engine.url)
    assert (list(arguments), options["connect_timeout"]) == ([], "3")


async def test_upgraded_tables_equal_new_ones(postgresql: PostgresqlServer, database: str, clock: Clock) -> None:
    upgraded = postgresql.new_database()
    name = make_url(upgraded).database or ""
    postgresql.execute(name, "CREATE TABLE schema_version (version SERIAL PRIMARY KEY)")
    postgresql.execute(name, "INSERT INTO schema_version VALUES (1)")
    seen = [await described(url, clock) for url in (database, upgraded)]
    assert seen[0] == seen[1]


async def described(url: str, clock: Clock) -> list[tuple[str, ...]]:
    """Return all columns, indexes and constraints as the server describes them."""
    store = JobStore(open_database(url), clock=clock, new_token=str)
    await store.prepare()
    columns = "table_name, column_name, data_type, is_nullable, column_default, character_maximum_length::text"
    queries = (
        f"SELECT {columns} FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, ordinal_position",
        "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2",
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
        " ORDER BY 1, 2",
    )

    def described_by(connection: Connection) -> list[tuple[str, ...]]:
        return [tuple(row) for query in queries for row in connection.execute(text(query))]

    found = await store.database.transact(described_by)
    await store.database.close()
    return found
