"""HTTP/1.1 on a connection, with little of what arrives in memory."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

_READ_BYTES = 66 << 10
"""Just above uvicorn's HIGH_WATER_LIMIT (64 KiB): one read pauses the connection until the application takes it."""


class SmallReads(H11Protocol):
    """uvicorn's protocol. asyncio would read 256 KiB at a time: 50 MB for a hundred uploads."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Limit each read; max_size is asyncio's, undocumented (selector_events.py)."""
        transport.max_size = _READ_BYTES  # pyright: ignore[reportAttributeAccessIssue]
        super().connection_made(transport)
