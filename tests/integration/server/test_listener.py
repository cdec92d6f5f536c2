"""The listening socket."""

from __future__ import annotations

import socket

from whisper_inference.service.listener import open_listener
from whisper_inference.settings import load_settings


def test_accepted_connections_send_at_once() -> None:
    with (
        open_listener(load_settings({"WHISPER_HOST": "127.0.0.1", "WHISPER_PORT": "0"})) as listening,
        socket.create_connection(listening.getsockname()),
    ):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
