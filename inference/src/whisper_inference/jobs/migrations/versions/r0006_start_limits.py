"""A client may limit how long its job waits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column, and the index by which the next limit is found."""
    op.add_column("jobs", sa.Column("start_by", sa.BigInteger))
    limited = sa.text("start_by IS NOT NULL")
    op.create_index("jobs_by_start", "jobs", ["start_by"], sqlite_where=limited, postgresql_where=limited)
