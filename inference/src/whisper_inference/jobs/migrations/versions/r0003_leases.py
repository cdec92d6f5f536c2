"""Attempts and waiting clients belong to an owner, and leases run out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns; what 0.1.0 left running belongs to the plain server."""
    op.add_column("jobs", sa.Column("accepted_by", sa.String(255), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("owner", sa.String(255), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("leased_until", sa.BigInteger))
