"""Memory of processes, read from /proc, and what an idle one releases."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from whisper_inference.worker.resident import NOTHING, Resident, resident_of

MIB = 1 << 20

HOLDER = """
import mmap, sys
own = bytearray(64 << 20)
for page in range(0, len(own), mmap.PAGESIZE):
    own[page] = 1
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(mapped[page] for page in range(0, len(mapped), mmap.PAGESIZE))
print("held", flush=True)
sys.stdin.read()
"""

IDLER = """
import dataclasses, json, os
import numpy as np
from whisper_inference.worker.resident import trim_idle_memory, resident_of
rng = np.random.default_rng(0)
matrix = rng.normal(size=(64, 64))
first = float(np.linalg.det(matrix))
before = resident_of(os.getpid())
trim_idle_memory()
after = resident_of(os.getpid())
again = [float(np.linalg.det(matrix)), float(np.fft.fft(matrix).real.sum()), json.loads("[1]")]
import decimal, sqlite3
trim_idle_memory()
third = float(np.linalg.det(matrix))
print(json.dumps([first, again[0], third, before.file, after.file, before.anonymous, after.anonymous]))
"""

BUFFERS = """
import json, mmap, os, resource
from whisper_inference.worker.resident import keep_freed_heap, resident_of, trim_heap
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use(buffers):
    before = faults()
    for _ in range(buffers):
        buffer = bytearray(64 << 20)
        for page in range(0, len(buffer), mmap.PAGESIZE):
            buffer[page] = 1
        del buffer
    return faults() - before
each = use(1)
keep_freed_heap()
use(1)
kept = use(4), resident_of(os.getpid()).anonymous
trim_heap()
print(json.dumps([each, *kept, resident_of(os.getpid()).anonymous]))
"""
WHOLE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def test_anonymous_and_file_bytes_are_distinguished(tmp_path: Path) -> None:
    mapped = tmp_path / "weights"
    mapped.write_bytes(b"w" * (32 * MIB))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, mapped], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    held = resident_of(holder.pid)
    holder.communicate("", timeout=10)
    assert 64 * MIB <= held.anonymous < 90 * MIB
    assert 32 * MIB <= held.file < 60 * MIB
    assert held.resident == held.anonymous + held.file
    assert 96 * MIB <= held.proportional <= held.resident
    assert resident_of(holder.pid) == NOTHING


def test_usage_adds_up_by_kind() -> None:
    assert Resident(1, 2, 3, 4) + Resident(10, 20, 30, 40) == Resident(11, 22, 33, 44)


def test_trimmed_process_releases_file_pages_and_keeps_working() -> None:
    answer = subprocess.run([sys.executable, "-c", IDLER], capture_output=True, text=True, check=True, timeout=60)
    first, again, third, file_before, file_after, own_before, own_after = json.loads(answer.stdout)
    assert first == again == third
    assert file_after < file_before / 2
    assert own_after < own_before + 4 * MIB, "reading smaps takes some"


@pytest.mark.skipif(
    WHOLE_PAGES.exists() and "[always]" in WHOLE_PAGES.read_text(), reason="huge pages: one fault brings 2 MiB"
)
def test_kept_heap_faults_once_and_is_released_by_trim() -> None:
    answer = subprocess.run([sys.executable, "-c", BUFFERS], capture_output=True, text=True, check=True, timeout=60)
    each, later, kept, trimmed = json.loads(answer.stdout)
    assert each > 0.6 * 64 * MIB / mmap.PAGESIZE
    assert later < each / 10
    assert kept - trimmed > 60 * MIB
