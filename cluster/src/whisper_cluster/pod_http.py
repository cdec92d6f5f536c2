"""HTTP to pods, over aiohttp: a third of the processor time that httpx takes for a request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import aiohttp

from whisper_cluster.pods import Reply

_CONNECT_SECONDS = 3.0
_KEPT_SECONDS = 2.0
"""Less than half of what the server keeps an idle connection (uvicorn's 5 s): none is used that is about to close."""
_UNLIMITED = 0
"""A look that waited for a place behind hour-long loads would take its pod for one that does not answer. There are
never more connections than workers that look and pods that are called, one call each (pod_calls.py)."""


class AiohttpTransport:
    """Keeps a connection for what follows within moments, as a call does a look; never until the next look."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def fetch(
        self, method: str, url: str, *, query: Mapping[str, str], headers: Mapping[str, str], most_bytes: int
    ) -> Reply:
        """Return the answer, its body cut off after most_bytes and one more. Raises OSError; follows no redirects."""
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
    """Offer calls to pods; how long one may take is the caller's to say, but for the connection itself."""
    connector = aiohttp.TCPConnector(limit=_UNLIMITED, keepalive_timeout=_KEPT_SECONDS)
    patience = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=patience, trust_env=False) as session:
        yield AiohttpTransport(session)
