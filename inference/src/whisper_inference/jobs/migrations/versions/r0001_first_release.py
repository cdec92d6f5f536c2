"""The tables of 0.1.0, which had no alembic: whatever it has already created is left unchanged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Create what is missing."""
    op.create_table("schema_version", sa.Column("version", sa.Integer, primary_key=True), if_not_exists=True)
    _create_jobs()
    op.create_index("jobs_by_status", "jobs", ["status", "number"], if_not_exists=True)
    op.create_index("jobs_by_end", "jobs", ["finished_at"], if_not_exists=True)
    # The first builds of 0.1.0 did not have it.
    op.create_index("jobs_by_principal", "jobs", ["principal", "number"], if_not_exists=True)
    op.create_table(
        "sections",
        sa.Column("job_id", sa.String(36), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("segment_count", sa.Integer, nullable=False),
        sa.Column("segments", sa.Text, nullable=False),
        if_not_exists=True,
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(36), nullable=False, unique=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("audio_key", sa.String(255), nullable=False),
        sa.Column("audio_size", sa.BigInteger, nullable=False),
        sa.Column("audio_sha256", sa.String(64), nullable=False),
        sa.Column("audio_held", sa.Boolean, nullable=False),
        sa.Column("audio_seconds", sa.Float),
        sa.Column("principal", sa.String(255), nullable=False),
        sa.Column("synchronous", sa.Boolean, nullable=False),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("attempt_token", sa.String(64), unique=True),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("language", sa.String(16)),
        sa.Column("next_start_sample", sa.BigInteger, nullable=False),
        sa.Column("previous_text", sa.Text),
        sa.Column("error", sa.JSON),
        sa.Column("waiting_for", sa.JSON),
        sa.UniqueConstraint("principal", "idempotency_key", name="one_job_per_idempotency_key"),
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
