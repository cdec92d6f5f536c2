"""Uploads in progress are known to everybody who shares the database, and stored bytes are summed there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table of uploads, and the index that the sum of stored bytes is read from."""
    op.create_table(
        "uploads",
        sa.Column("audio_key", sa.String(255), primary_key=True),
        sa.Column("namespace", sa.String(63), nullable=False),
        sa.Column("whispermodel", sa.String(253), nullable=False),
        sa.Column("principal", sa.String(255), nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("renewed_at", sa.BigInteger, nullable=False),
    )
    op.create_index(
        "jobs_held",
        "jobs",
        ["namespace", "whispermodel", "audio_size", "audio_held"],
        sqlite_where=sa.text("audio_held = 1"),
        postgresql_where=sa.text("audio_held"),
    )
