"""Jobs name their model and when they are due."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_BACKGROUND_DELAY_MICROSECONDS = 300_000_000


def upgrade() -> None:
    """Add the columns; the jobs of 0.1.0 are the plain server's."""
    # Columns are added, and no table is ever copied: on SQLite, dropping the old `jobs` would delete all sections.
    op.add_column("jobs", sa.Column("namespace", sa.String(63), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("whispermodel", sa.String(253), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("due_at", sa.BigInteger, nullable=False, server_default="0"))
    jobs = sa.table("jobs", *map(sa.column, ("synchronous", "created_at", "due_at", "status")))
    delay = sa.case((jobs.c.synchronous, 0), else_=_BACKGROUND_DELAY_MICROSECONDS)
    op.execute(sa.update(jobs).values(due_at=jobs.c.created_at + delay))
    queued = sa.text("status = 'queued'")
    op.create_index(
        "jobs_due",
        "jobs",
        ["namespace", "whispermodel", "due_at", "number"],
        sqlite_where=queued,
        postgresql_where=queued,
    )
    op.create_index("jobs_by_model", "jobs", ["namespace", "whispermodel", "status"])
    op.execute("DELETE FROM schema_version")
    # Alembic's own table counts from here on; this one makes 0.1.0 reject the tables.
    op.execute("INSERT INTO schema_version (version) VALUES (2)")
