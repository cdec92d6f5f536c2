"""Real servers on real weights; their logs are shown when a test fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from testing.audio_files import JFK, RATE, speech, speech_in_windows, write_wav
from testing.paths import ROOT
from testing.server_process import Launch, ServerProcess, StartServer, running_process, wait_until
from tools.weights import CHECKPOINT, CT2_FOLDER, make_weights

_LOG_LINES = 60
_running = pytest.StashKey[list[ServerProcess]]()


@pytest.fixture(scope="session")
def weights() -> dict[str, Path]:
    """The path of tiny.en by engine."""
    folder = ROOT / "var" / "models"
    make_weights(folder)
    return {"openai-whisper": folder / CHECKPOINT, "faster-whisper": folder / CT2_FOLDER}


@pytest.fixture(scope="session")
def launch(
    weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Launch]:
    """Run a server for a block: launch(engine, data_dir=..., WHISPER_...=...). It loads with the first work."""
    cache = tmp_path_factory.mktemp("cache")
    live = pytestconfig.stash.setdefault(_running, [])

    @contextmanager
    def launched(
        engine: str = "faster-whisper", *, data_dir: Path | None = None, **settings: str
    ) -> Iterator[ServerProcess]:
        folder = tmp_path_factory.mktemp("server")
        environment = {
            "WHISPER_MODEL": "tiny.en",
            "WHISPER_ENGINE": engine,
            "WHISPER_MODEL_PATH": str(weights[engine]),
            "WHISPER_CACHE_DIR": str(cache),
            "WHISPER_PRELOAD_MODEL": "false",
        }
        with running_process(
            environment | settings, data_dir=data_dir or folder / "data", log=folder / "log"
        ) as server:
            live.append(server)
            try:
                yield server
            finally:
                live.remove(server)

    yield launched
    shutil.rmtree(cache)


@pytest.fixture
def start_server(launch: Launch) -> Iterator[StartServer]:
    """Start servers that end with the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **settings: stack.enter_context(launch(*arguments, **settings))


@pytest.fixture(scope="module")
def server(launch: Launch) -> Iterator[ServerProcess]:
    """One server with faster-whisper for all tests of a module."""
    with launch() as server:
        yield server


@pytest.fixture(scope="session")
def shared_server(launch: Launch) -> Iterator[ServerProcess]:
    """One loaded server with faster-whisper for all tests that only read, transcribe or queue jobs.

    Tests that change settings, kill, unload, or count what others may have done have a server of their own.
    """
    with launch() as server:
        server.load()
        yield server


@pytest.fixture(autouse=True)
def shared_server_is_left_as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that changes the shared server, not the next one."""
    if "shared_server" not in request.fixturenames:
        yield
        return
    server: ServerProcess = request.getfixturevalue("shared_server")
    server.load()
    worker, killed = server.worker().pid, _killed_for_a_cancelled_job(server)
    yield
    wait_until(lambda: not (found := server.status())["in_flight"] + found["queued"], "no work is left")
    if _killed_for_a_cancelled_job(server) == killed:
        assert server.status()["loaded"]
        assert server.worker().pid == worker, "it was unloaded or killed meanwhile"


def _killed_for_a_cancelled_job(server: ServerProcess) -> float:
    """Return how many workers did not stop a cancelled job in time, as happens on a machine that is very slow."""
    return server.metric("whisper_worker_restarts_total", cause="cancelled")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The speech's first 2.3 s."""
    return write_wav(tmp_path_factory.mktemp("audio") / "clip.wav", speech()[: int(2.3 * RATE)])


@pytest.fixture(scope="session")
def other_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The speech's last 3 s."""
    return write_wav(tmp_path_factory.mktemp("audio") / "other.wav", speech()[-3 * RATE :])


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The speech four times in two minutes: seconds of work, to do things meanwhile."""
    return write_wav(tmp_path_factory.mktemp("audio") / "long.wav", speech_in_windows(4))


@pytest.fixture(scope="session")
def longer_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The speech twelve times in six minutes: still in progress after twenty uploads, on any machine."""
    return write_wav(tmp_path_factory.mktemp("audio") / "longer.wav", speech_in_windows(12))


@pytest.fixture(scope="session")
def jfk() -> Path:
    """The bundled speech, 11 s."""
    return JFK


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Add the logs of the servers that run to a failed test's report."""
    report = yield
    if report.failed:
        for server in item.config.stash.get(_running, []):
            lines = server.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            report.sections.append((f"log of the server at {server.url}", "\n".join(lines)))
    return report
