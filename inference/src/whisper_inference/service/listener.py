"""The socket on which the HTTP API listens."""

from __future__ import annotations

import socket

from whisper_inference.settings import CommonSettings

_BACKLOG = 2048
"""Connections that may wait while the server starts or is busy; uvicorn's own default."""


def open_listener(settings: CommonSettings, *, inherited: int | None = None) -> socket.socket:
    """Return the listening socket: clients that connect while the server starts wait instead of being refused.

    inherited: the descriptor of one that a gateway opened for this server. Raises SystemExit with a message for people.
    """
    listening = _bound(settings) if inherited is None else socket.socket(fileno=inherited)
    listening.set_inheritable(False)
    # For the connections that it accepts. asyncio sets it only where the socket states its protocol, which Python's
    # create_server does not; without it an answer's body waits 40 ms for the client to acknowledge the headers.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _bound(settings: CommonSettings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SystemExit(
            f"Cannot listen on {settings.host}:{settings.port} ({error.strerror}): "
            "set WHISPER_HOST and WHISPER_PORT, or stop the program that uses the port."
        ) from None
