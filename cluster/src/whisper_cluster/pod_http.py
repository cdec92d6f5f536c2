"""HTTP to pods over aiohttp, which takes a third of the processor time of httpx."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import aiohttp

from whisper_cluster.pods import Reply

_CONNECT_SECONDS = 3.0
_KEPT_SECONDS = 2.0
"""Less than half of uvicorn's 5 s, so that a connection that the server is about to close is not reused."""
_UNLIMITED = 0
"""A status request that waited behind hour-long loads would make its pod look unresponsive. There are never more
connections than workers and pods with a call in progress, one each (calls_in_progress.py)."""


class AiohttpTransport:
    """Keeps a connection alive for a request that follows within moments, not for the next poll."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def fetch(
        self, method: str, url: str, *, query: Mapping[str, str], headers: Mapping[str, str], most_bytes: int
    ) -> Reply:
        """Return the response, its body truncated to most_bytes + 1. Raises OSError. Does not follow redirects."""
        try:
            async with self._session.request(
                method, url, params=query, headers=headers, allow_redirects=False
            ) as response:
                return Reply(response.status, await _start_of(response.content, most_bytes + 1))
        except aiohttp.ClientConnectorError as error:
            raise ConnectionError(error.strerror or "the connection was refused") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise ConnectionError(str(error)) from error


async def _start_of(content: aiohttp.StreamReader, size: int) -> bytes:
    body = bytearray()
    while len(body) < size and (part := await content.read(size - len(body))):
        body += part
    return bytes(body)


@asynccontextmanager
async def pod_http() -> AsyncGenerator[AiohttpTransport]:
    """Open a session for requests to pods. Callers set timeouts, except for connecting."""
    connector = aiohttp.TCPConnector(limit=_UNLIMITED, keepalive_timeout=_KEPT_SECONDS)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
        yield AiohttpTransport(session)
