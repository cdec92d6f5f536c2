"""The settings of the server."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from whisper_inference.settings import Settings, SettingsError, default_cache_dir, load_settings, setting_names
from whispermodel.catalog import ComputeType, Device, Engine


def load(**environ: str) -> Settings:
    return load_settings(environ, dotenv=None)


def problems_of(**environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(**environ)
    return caught.value.problems


def test_defaults_suit_a_single_machine() -> None:
    settings = load()
    assert (settings.model, settings.engine, settings.preload_model) == ("base", Engine.OPENAI_WHISPER, True)
    assert (settings.host, settings.port) == ("127.0.0.1", 8002)
    assert (settings.max_audio_bytes, settings.max_stored_bytes) == (2**30, 10 * 2**30)
    assert (settings.max_waiting, settings.max_wait) == (100, timedelta(minutes=10))
    assert (settings.unload_after, settings.job_retention) == (None, timedelta(hours=24))


def test_every_setting_can_be_set() -> None:
    given = {
        "WHISPER_MODEL": "tiny",
        "WHISPER_ENGINE": "faster-whisper",
        "WHISPER_DEVICE": "cpu",
        "WHISPER_COMPUTE_TYPE": "int8",
        "WHISPER_PRELOAD_MODEL": "false",
        "WHISPER_MODEL_PATH": "/srv/tiny",
        "WHISPER_MODEL_SHA256": "AB" * 32,
        "WHISPER_MODEL_FILE": "/srv/model.yaml",
        "WHISPER_CACHE_DIR": "/srv/cache",
        "WHISPER_DATA_DIR": "/srv/data",
        "WHISPER_HOST": "0.0.0.0",
        "WHISPER_PORT": "9000",
        "WHISPER_MAX_AUDIO_BYTES": "500Mi",
        "WHISPER_MAX_AUDIO_SECONDS": "60",
        "WHISPER_MAX_STORED_BYTES": "5000000000",
        "WHISPER_MAX_WAITING": "200",
        "WHISPER_MAX_WAIT": "90s",
        "WHISPER_UNLOAD_AFTER": "1h30m",
        "WHISPER_DRAIN": "5m",
        "WHISPER_JOB_RETENTION": "1h",
        "WHISPER_RETRY_WINDOW": "30s",
        "WHISPER_API_KEYS_FILE": "/srv/keys.yaml",
        "WHISPER_METRICS_AUTH": "key",
        "WHISPER_DATABASE_URL": "sqlite:////srv/jobs.db",
        "WHISPER_OBJECT_STORE_URL": "s3://audio/spool",
    }
    assert set(given) == setting_names()
    settings = load(**given)
    assert settings == Settings(
        model="tiny",
        engine=Engine.FASTER_WHISPER,
        device=Device.CPU,
        compute_type=ComputeType.INT8,
        preload_model=False,
        model_path=Path("/srv/tiny"),
        model_sha256="ab" * 32,
        model_file=Path("/srv/model.yaml"),
        cache_dir=Path("/srv/cache"),
        data_dir=Path("/srv/data"),
        host="0.0.0.0",
        port=9000,
        max_audio_bytes=500 * 2**20,
        max_audio_seconds=60,
        max_stored_bytes=5_000_000_000,
        max_waiting=200,
        max_wait=timedelta(seconds=90),
        unload_after=timedelta(minutes=90),
        drain=timedelta(minutes=5),
        job_retention=timedelta(hours=1),
        retry_window=timedelta(seconds=30),
        api_keys_file=Path("/srv/keys.yaml"),
        metrics_auth="key",
        database_url="sqlite:////srv/jobs.db",
        object_store_url="s3://audio/spool",
    )


def test_constructor_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER_PORT", "9000")
    assert Settings().port == 8002


def test_empty_value_counts_as_not_set() -> None:
    assert load(WHISPER_DEVICE="", WHISPER_MODEL="").model == "base"


def test_model_alias_becomes_the_canonical_name() -> None:
    assert load(WHISPER_MODEL="turbo").model == "large-v3-turbo"


def test_unknown_name_is_rejected_with_the_nearest_known_one() -> None:
    assert problems_of(WHISPER_MODELS="base") == ["WHISPER_MODELS is not a known setting: did you mean WHISPER_MODEL?"]


def test_unknown_name_without_a_near_match_points_to_the_docs() -> None:
    assert "docs/settings.md" in problems_of(WHISPER_XYZZY="1")[0]


@pytest.mark.parametrize(
    "link",
    [
        {"WHISPER_PORT": "tcp://10.0.0.7:8002"},
        {"WHISPER_SERVICE_HOST": "10.0.0.7", "WHISPER_SERVICE_PORT": "8002", "WHISPER_SERVICE_PORT_HTTP": "8002"},
        {"WHISPER_PORT_8002_TCP": "tcp://10.0.0.7:8002", "WHISPER_PORT_8002_TCP_PROTO": "tcp"},
        {"WHISPER_PORT_8002_TCP_PORT": "8002", "WHISPER_PORT_8002_TCP_ADDR": "10.0.0.7"},
        {"WHISPER_GATEWAY_PORT": "tcp://10.0.0.7:80", "WHISPER_GATEWAY_SERVICE_HOST": "10.0.0.7"},
    ],
)
def test_kubernetes_service_variables_are_ignored(link: dict[str, str]) -> None:
    assert load(**link).port == 8002


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("WHISPER_MODEL", "bas", "choose one of: tiny, tiny.en"),
        ("WHISPER_ENGINE", "whisper.cpp", "'openai-whisper' or 'faster-whisper' (got 'whisper.cpp')"),
        ("WHISPER_PORT", "70000", "65535 (got '70000')"),
        ("WHISPER_PORT", "udp", "valid integer"),
        ("WHISPER_PRELOAD_MODEL", "maybe", "boolean"),
        ("WHISPER_MAX_AUDIO_BYTES", "1GB", "such as 1Gi"),
        ("WHISPER_MAX_AUDIO_BYTES", "0", "greater than 0"),
        ("WHISPER_MAX_WAITING", "-1", "greater than or equal to 0"),
        ("WHISPER_UNLOAD_AFTER", "15", "such as 1h30m"),
        ("WHISPER_UNLOAD_AFTER", "0s", "longer than 0s"),
        ("WHISPER_METRICS_AUTH", "basic", "'none' or 'key'"),
        ("WHISPER_DATABASE_URL", "sqlite:///:memory:", "only SQLite files"),
        ("WHISPER_OBJECT_STORE_URL", "/srv/audio", "such as file:///srv/audio"),
        ("WHISPER_OBJECT_STORE_URL", "memory:///", "persistent store"),
        ("WHISPER_MODEL_SHA256", "abc", "64 hexadecimal digits"),
        ("WHISPER_DRAIN", "soon", "not a duration"),
    ],
)
def test_invalid_value_is_reported_in_one_sentence(name: str, value: str, reason: str) -> None:
    [problem] = problems_of(**{name: value})
    assert problem.startswith(f"{name}: ")
    assert reason in problem
    assert "\n" not in problem


def test_all_problems_are_reported_together() -> None:
    assert len(problems_of(WHISPER_PORT="x", WHISPER_MODEL="x", WHISPER_MAX_WAIT="x")) == 3


def test_password_in_a_url_is_not_disclosed() -> None:
    with pytest.raises(SettingsError) as caught:
        load(WHISPER_DATABASE_URL="postgresql://me:hunter2@db/jobs")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"WHISPER_COMPUTE_TYPE": "int8"}, "only with the engine faster-whisper"),
        ({"WHISPER_MODEL": "distil-large-v3"}, "only with the engine faster-whisper"),
        ({"WHISPER_COMPUTE_TYPE": "float16", "WHISPER_DEVICE": "cpu"}, "needs the device cuda"),
        ({"WHISPER_MODEL_SHA256": "0" * 64}, "requires WHISPER_MODEL_PATH"),
        ({"WHISPER_MAX_AUDIO_BYTES": "11Gi"}, "must not exceed WHISPER_MAX_STORED_BYTES"),
    ],
)
def test_conflicting_settings_are_rejected(environ: dict[str, str], reason: str) -> None:
    [problem] = problems_of(**environ)
    assert reason in problem


def test_total_limit_caps_each_file() -> None:
    assert load(WHISPER_MAX_STORED_BYTES="500Mi").max_audio_bytes == 500 * 2**20
    assert load(WHISPER_MAX_STORED_BYTES="20Gi").max_audio_bytes == 2**30


def test_invalid_total_limit_is_one_problem() -> None:
    [problem] = problems_of(WHISPER_MAX_STORED_BYTES="much")
    assert problem.startswith("WHISPER_MAX_STORED_BYTES: ")


def test_waiting_limits_may_be_zero() -> None:
    settings = load(WHISPER_MAX_WAITING="0", WHISPER_MAX_WAIT="0s")
    assert (settings.max_waiting, settings.max_wait) == (0, timedelta())


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("WHISPER_PRELOAD_MODEL=false\nWHISPER_PORT=9000\nOTHER=1\n")
    settings = load_settings({"WHISPER_PORT": "9001"}, dotenv=dotenv)
    assert (settings.preload_model, settings.port) == (False, 9001)


def test_unknown_name_in_the_file_is_rejected(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("WHISPER_PRELOAD=false\n")
    with pytest.raises(SettingsError, match="did you mean WHISPER_PRELOAD_MODEL"):
        load_settings({}, dotenv=dotenv)


def test_binary_file_is_rejected(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"WHISPER_PORT=1\n\xff\n")
    with pytest.raises(SettingsError, match=r"\.env cannot be read"):
        load_settings({}, dotenv=dotenv)


def test_file_is_optional(tmp_path: Path) -> None:
    assert load_settings({}, dotenv=tmp_path / ".env").port == 8002


def test_database_defaults_to_the_data_folder(tmp_path: Path) -> None:
    settings = load(WHISPER_DATA_DIR=str(tmp_path))
    assert settings.database == f"sqlite:///{tmp_path}/jobs.sqlite3"


def test_sqlite_url_names_the_file() -> None:
    assert load(WHISPER_DATABASE_URL="sqlite:////srv/jobs.db").database == "sqlite:////srv/jobs.db"


def test_cache_folder_follows_xdg_and_ignores_relative_paths() -> None:
    assert default_cache_dir({"XDG_CACHE_HOME": "/var/cache"}) == Path("/var/cache/whisper-operator")
    assert default_cache_dir({"XDG_CACHE_HOME": "cache"}) == Path("~/.cache/whisper-operator").expanduser()
    assert load(XDG_CACHE_HOME="/var/cache").cache_dir == Path("/var/cache/whisper-operator")
