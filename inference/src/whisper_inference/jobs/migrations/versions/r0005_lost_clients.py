"""A client that lost its connection may come back for its job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column, and the index by which a repeated request finds its job."""
    op.add_column("jobs", sa.Column("client_gone_at", sa.BigInteger))
    gone = sa.text("client_gone_at IS NOT NULL")
    columns = ["principal", "fingerprint", "number"]
    op.create_index("jobs_by_request", "jobs", columns, sqlite_where=gone, postgresql_where=gone)
