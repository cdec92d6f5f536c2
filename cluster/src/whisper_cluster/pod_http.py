"""HTTP to pods over aiohttp, which takes a third of the processor time of httpx."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager

import aiohttp

from whisper_cluster.pods import Reply

_CONNECT_SECONDS = 3.0
_KEPT_SECONDS = 2.0
"""Less than half of uvicorn's 5 s, so that a connection that the server is about to close is not reused."""
_UNLIMITED = 0
"""A status request that waited behind hour-long loads would make its pod look unresponsive. There are never more
connections than callers: the operator has one for each worker and pod with a call in progress (calls_in_progress.py),
a gateway one for each slot that it holds or waits for."""


class AiohttpTransport:
    """Keeps a connection alive for a request that follows within moments, not for the next poll."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def fetch(
        self, method: str, url: str, *, query: Mapping[str, str], headers: Mapping[str, str], most_bytes: int
    ) -> Reply:
        """Return the response, its body truncated to most_bytes + 1. Raises OSError. Does not follow redirects."""
        with _os_errors():
            async with self._session.request(
                method, url, params=query, headers=headers, allow_redirects=False
            ) as response:
                return Reply(response.status, await start_of(response.content, most_bytes + 1))

    async def exchange(self, url: str, *, headers: Mapping[str, str], body: aiohttp.Payload) -> aiohttp.ClientResponse:
        """Post a body that is still being made while the response arrives; the caller closes the response.

        Raises OSError.
        """
        with _os_errors():
            return await self._session.post(url, data=body, headers=headers, allow_redirects=False)


@contextmanager
def _os_errors() -> Generator[None]:
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        raise ConnectionError(error.strerror or "the connection was refused") from error
    except (aiohttp.ClientError, ValueError) as error:
        raise ConnectionError(str(error)) from error


async def start_of(content: aiohttp.StreamReader, size: int) -> bytes:
    """Return the first bytes of a response's body, at most that many."""
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
