"""Runs the migrations on the connection, and inside the transaction, of whoever asks for them."""

from __future__ import annotations

from typing import cast

from alembic import context
from sqlalchemy import Connection

context.configure(connection=cast("Connection", context.config.attributes["connection"]))
with context.begin_transaction():
    context.run_migrations()
