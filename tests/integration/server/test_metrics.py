"""Metrics and the API process's own cleanliness, while the server works."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from testing.server_process import ServerProcess, StartServer

NAMES = [
    "whisper_build_info",
    "whisper_model_info",
    "whisper_model_state",
    "whisper_model_loads_total",
    "whisper_model_unloads_total",
    "whisper_model_load_seconds_bucket",
    "whisper_model_unload_seconds_bucket",
    "whisper_memory_bytes",
    "whisper_gpu_memory_bytes",
    "whisper_memory_freed_bytes_total",
    "whisper_unload_residue_bytes",
    "whisper_last_activity_timestamp_seconds",
    "whisper_jobs",
    "whisper_jobs_in_flight",
    "whisper_job_queue_seconds_bucket",
    "whisper_job_duration_seconds_bucket",
    "whisper_audio_seconds_total",
    "whisper_realtime_factor_bucket",
    "whisper_cold_start_seconds_bucket",
    "whisper_worker_restarts_total",
    "whisper_http_request_duration_seconds_bucket",
    "whisper_rejected_total",
]


@pytest.fixture(scope="module")
def busy(server: ServerProcess, clip: Path) -> ServerProcess:
    """A server after a little of everything."""
    server.transcribe(clip)
    server.worker().kill()
    server.wait_for_state("Unloaded")
    server.load()
    server.unload()
    server.client.get("/jobs/unknown")
    return server


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_is_exposed(busy: ServerProcess, name: str) -> None:
    assert name in busy.metric_names()


def test_exactly_one_state_holds(busy: ServerProcess) -> None:
    assert busy.metric("whisper_model_state") == 1
    assert busy.metric("whisper_model_state", state=busy.status()["state"]) == 1


def test_paths_are_counted_by_their_template(busy: ServerProcess) -> None:
    name = "whisper_http_request_duration_seconds_count"
    assert busy.metric(name, route="/jobs/{job_id}", code="404") >= 1
    busy.client.get("/nowhere")
    assert busy.metric(name, route="/nowhere") == 0


def test_the_audios_length_is_counted(busy: ServerProcess) -> None:
    assert busy.metric("whisper_audio_seconds_total") == pytest.approx(2.3, abs=0.01)


def test_unloading_frees_what_the_metrics_say(busy: ServerProcess) -> None:
    assert busy.metric("whisper_memory_freed_bytes_total", kind="resident") > 50e6
    assert busy.metric("whisper_memory_bytes", process="worker", kind="resident") == 0


@pytest.mark.parametrize(("engine", "library"), [("faster-whisper", "libctranslate2"), ("openai-whisper", "libtorch")])
def test_the_api_process_holds_no_engine_while_it_transcribes(
    start_server: StartServer, long_clip: Path, engine: str, library: str
) -> None:
    server = start_server(engine)
    job = server.submit(long_clip)["id"]
    server.wait_for_job(job, "running")
    mapped = libraries_of(server.pid)
    foreign = ("libtorch", "libcuda", "libctranslate2", "ctranslate2", "libav", "libc10", "_multiarray_umath")
    assert [name for name in mapped if name.startswith(foreign)] == []
    worker = libraries_of(server.worker().pid)
    assert any(name.startswith(library) for name in worker), "the list would not notice anything"


def libraries_of(pid: int) -> set[str]:
    return {Path(region.path).name for region in psutil.Process(pid).memory_maps()}
