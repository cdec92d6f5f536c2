"""The GPU reader against a stand-in NVML library, compiled here and found in front of the real one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from testing.server_process import Launch

# The calls that pynvml makes for the reader, in the versions that it asks for (nvml.h). Each reading of the used bytes
# is a MiB more than the last; every init and shutdown leaves a letter in $NVML_CALLS.
LIBRARY = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { unsigned long long total, free, used; } memory_t;
static unsigned long long readings = 0;

static void note(char letter) {
    FILE *calls = fopen(getenv("NVML_CALLS"), "a");
    fputc(letter, calls);
    fclose(calls);
}
static int fails(const char *name) {
    const char *failing = getenv("NVML_FAILS");
    return failing != NULL && strcmp(failing, name) == 0;
}
int nvmlInitWithFlags(unsigned int flags) { if (fails("init")) return 9; note('i'); return 0; }
int nvmlShutdown(void) { note('s'); return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = fails("none") ? 0 : 2; return fails("count") ? 999 : 0; }
static int devices[3];  /* the third is a part of the second */
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) { *device = devices + index; return index > 1; }
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned int length) {
    strncpy(uuid, device == devices ? "GPU-aa-1" : "GPU-ab-2", length);
    return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    *device = devices + 2;
    return strcmp(uuid, "MIG-3") == 0 ? 0 : 6;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    memory->total = (16ULL + ((int *)device - devices)) << 30;
    memory->used = (100ULL + ++readings) << 20;
    memory->free = memory->total - memory->used;
    return fails("memory") ? 15 : 0;
}
int nvmlDeviceGetName(void *device, char *name, unsigned int length) { strncpy(name, "Stand-in T4", length); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12010; return 0; }
const char *nvmlErrorString(int result) { return "stand-in failure"; }
"""

READER = """
import dataclasses, json, sys
from whisper_inference.lifecycle.gpu import NvmlGpu
gpu = NvmlGpu()
facts = [gpu.facts() for _ in range(2)]
print(json.dumps([*(found and dataclasses.asdict(found) for found in facts), gpu.used_bytes()]))
"""

Environment = Mapping[str, str]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in."""
    if shutil.which("cc") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("a C compiler is needed for the stand-in NVML library")
        pytest.skip("no C compiler (cc) for the stand-in NVML library")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(LIBRARY)
    target = folder / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", target, folder / "nvml.c"], check=True)
    return folder


@pytest.fixture
def nvml(library: Path, tmp_path: Path) -> dict[str, str]:
    return {"LD_LIBRARY_PATH": str(library), "NVML_CALLS": str(tmp_path / "calls")}


@pytest.fixture
def read(nvml: Environment) -> Callable[..., list[object]]:
    """Run the reader in a process of its own: two facts and the used bytes."""

    def reading(**more: str) -> list[object]:
        environment = {**os.environ, **nvml, **more}
        answer = subprocess.run([sys.executable, "-c", READER], env=environment, capture_output=True, check=True)
        return json.loads(answer.stdout)

    return reading


def calls(nvml: Environment) -> str:
    path = Path(nvml["NVML_CALLS"])
    return path.read_text() if path.exists() else ""


def test_the_reader_returns_name_count_version_and_bytes_anew_each_time(
    read: Callable[..., list[object]], nvml: Environment
) -> None:
    facts = {"name": "Stand-in T4", "device_count": 2, "cuda_version": "12.1", "total_bytes": 16 << 30}
    assert read() == [facts | {"used_bytes": 101 << 20}, facts | {"used_bytes": 102 << 20}, 103 << 20]
    assert calls(nvml) == "isisis", "the driver is held only for the moment"


@pytest.mark.parametrize(
    ("visible", "device", "count"),
    [
        ("0", 0, 1),
        ("1", 1, 1),
        ("1,0", 1, 2),
        ("GPU-ab", 1, 1),
        ("GPU-aa-1,GPU-ab-2", 0, 2),
        ("MIG-3", 2, 1),
        pytest.param("1,7,0", 1, 1, id="what follows a device that there is not is not seen"),
    ],
)
def test_the_gpu_is_the_first_that_cuda_may_use(
    visible: str, device: int, count: int, read: Callable[..., list[dict[str, object]]]
) -> None:
    facts, _, _ = read(CUDA_VISIBLE_DEVICES=visible)
    assert (facts["total_bytes"], facts["device_count"]) == ((16 + device) << 30, count)


@pytest.mark.parametrize("visible", ["", "-1", "2", "GPU-a", "MIG-4", "NoDevFiles"])
def test_without_a_device_that_cuda_may_use_there_is_no_gpu(visible: str, read: Callable[..., list[object]]) -> None:
    assert read(CUDA_VISIBLE_DEVICES=visible) == [None, None, 0]


@pytest.mark.parametrize("failing", ["init", "count", "none", "memory"])
def test_a_driver_that_fails_or_has_no_gpu_counts_as_no_gpu(
    failing: str, read: Callable[..., list[object]], nvml: Environment
) -> None:
    assert read(NVML_FAILS=failing) == [None, None, 0]
    assert calls(nvml) == ("" if failing == "init" else "isisis")


def test_without_a_driver_there_is_no_gpu(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    answer = subprocess.run([sys.executable, "-c", READER], env=environment, capture_output=True, check=True)
    assert json.loads(answer.stdout) == [None, None, 0]


def test_status_shows_the_gpu_that_nvml_reports(
    launch: Launch, nvml: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in nvml.items():
        monkeypatch.setenv(name, value)
    with launch() as server:
        status = server.status()
    assert status["memory"]["cuda_available"] is True
    assert status["gpu_info"] == {"name": "Stand-in T4", "device_count": 2, "cuda_version": "12.1"}
    assert status["loaded"] is False
    assert calls(nvml).count("i") == calls(nvml).count("s") > 0
