"""Keys and what they allow, on the wire."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.server_process import Launch, ServerProcess


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    path.write_text("".join(entry(name, scope) for name, scope in (("user", "use"), ("night", "control"))))
    return path


@pytest.fixture(scope="module")
def server(launch: Launch, keys_file: Path) -> Iterator[ServerProcess]:
    with launch(WHISPER_API_KEYS_FILE=str(keys_file), WHISPER_METRICS_AUTH="key") as server:
        yield server


def entry(name: str, scope: str) -> str:
    return f"- {{name: {name}, sha256: {hashlib.sha256(name.encode()).hexdigest()}, scopes: [{scope}]}}\n"


def answered(server: ServerProcess, method: str, path: str, *, key: str | None) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return server.client.request(method, path, headers=headers).status_code


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/health/startup"])
def test_health_needs_no_key(server: ServerProcess, path: str) -> None:
    assert answered(server, "GET", path, key=None) == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/model/status"),
        ("GET", "/jobs"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("POST", "/jobs"),
        ("POST", "/model/load"),
        ("POST", "/model/unload"),
        ("POST", "/v1/audio/transcriptions"),
    ],
)
@pytest.mark.parametrize("key", [None, "wrong"])
def test_without_a_valid_key_nothing_is_done(server: ServerProcess, method: str, path: str, key: str | None) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = server.client.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert not server.children()


@pytest.mark.parametrize("path", ["/model/status", "/jobs", "/v1/models", "/metrics"])
def test_a_user_may_read_the_status(server: ServerProcess, path: str) -> None:
    assert answered(server, "GET", path, key="user") == 200


@pytest.mark.parametrize("path", ["/model/load", "/model/unload"])
def test_a_user_may_not_control_the_model(server: ServerProcess, path: str) -> None:
    answer = server.client.post(path, headers={"Authorization": "Bearer user"})
    assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing")
    assert "control" in answer.json()["detail"]


def test_a_controller_may_control_the_model(server: ServerProcess) -> None:
    assert answered(server, "POST", "/model/unload", key="night") == 200


def test_a_key_that_is_added_works_without_a_restart(server: ServerProcess, keys_file: Path) -> None:
    assert answered(server, "GET", "/jobs", key="new") == 401
    keys_file.write_text(keys_file.read_text() + entry("new", "use"))
    assert answered(server, "GET", "/jobs", key="new") == 200
