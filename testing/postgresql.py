"""A PostgreSQL server for tests: Debian's, on a Unix socket in a temporary folder."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, create_engine, text
from sqlalchemy.pool import NullPool

HOW_TO_GET_IT = "no PostgreSQL: apt install postgresql (Debian, Ubuntu)"

_USER = "postgres"
_START_SECONDS = 60


def binaries() -> Path | None:
    """Return the folder of the server's programs, of the latest version installed; None: there is none."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = str(versions[-1]) if versions else shutil.which("initdb")
    return Path(found).parent if found else None


class PostgresqlServer:
    """A server whose data nobody keeps; `running` starts one."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._numbers = itertools.count(1)

    def create(self) -> None:
        """Create the server's files."""
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--no-sync", f"--username={_USER}")

    def start(self) -> None:
        """Start, and wait until connections are accepted."""
        options = f"-c listen_addresses= -c fsync=off -k {self._folder}"
        self._run("pg_ctl", "--wait", f"--log={self._folder / 'log'}", "-o", options, "start")

    def stop(self) -> None:
        """Stop as in a crash: connections are cut off."""
        self._run("pg_ctl", "--wait", "--mode=immediate", "stop")

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        query = {"host": str(self._folder)}
        url = URL.create("postgresql+psycopg", username=_USER, database=database, query=query)
        return url.render_as_string(hide_password=False)

    def new_database(self) -> str:
        """Create an empty database; return its URL."""
        name = f"test_{next(self._numbers)}"
        self.execute("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, database: str, statement: str) -> None:
        """Execute a statement outside of a transaction."""
        engine = create_engine(self.url(database), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text(statement))

    def _run(self, program: str, *arguments: str) -> None:
        command = [*_as_its_user(), str(self._programs / program), f"--pgdata={self._folder / 'data'}", *arguments]
        # Not captured by a pipe: the server would keep it open.
        with (self._folder / "output").open("w+") as output:
            done = subprocess.run(command, stdout=output, stderr=output, timeout=_START_SECONDS, cwd="/")
            output.seek(0)
            assert done.returncode == 0, output.read()


def _as_its_user() -> Sequence[str]:
    # The server refuses to run as root, which CI is.
    return ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"] if os.getuid() == 0 else []


@contextmanager
def running(programs: Path) -> Iterator[PostgresqlServer]:
    """Run a server."""
    # Not in pytest's folders, which other users cannot enter; and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        if os.getuid() == 0:
            owner = pwd.getpwnam(_USER)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        server = PostgresqlServer(programs, folder)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
