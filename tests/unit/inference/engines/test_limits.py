"""Available memory and cores, read from fake kernel files."""

from __future__ import annotations

from pathlib import Path

import pytest

from whisper_inference.engines.limits import available_memory, require_memory, total_memory, usable_cores
from whisper_inference.errors import ModelDoesNotFit


def _system(folder: Path, *, cgroup: str) -> dict[str, Path]:
    _write(folder / "proc/meminfo", "MemTotal: 2000 kB\nMemAvailable:    1000 kB\n")
    _write(folder / "proc/self/cgroup", cgroup)
    return {"proc": folder / "proc", "cgroup": folder / "cgroup"}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_machines_memory_applies_without_a_cgroup_limit(tmp_path: Path) -> None:
    system = _system(tmp_path, cgroup="0::/pod\n")
    _write(tmp_path / "cgroup/pod/memory.max", "max\n")
    _write(tmp_path / "cgroup/pod/memory.current", "5\n")
    assert available_memory(**system) == 1000 * 1024


def test_parents_v2_limit_applies_and_page_cache_is_free(tmp_path: Path) -> None:
    system = _system(tmp_path, cgroup="0::/pod/container\n")
    _write(tmp_path / "cgroup/pod/memory.max", "500000\n")
    _write(tmp_path / "cgroup/pod/memory.current", "300000\n")
    _write(tmp_path / "cgroup/pod/memory.stat", "anon 100000\ninactive_file 200000\n")
    assert available_memory(**system) == 400_000


def test_v1_limit_applies(tmp_path: Path) -> None:
    system = _system(tmp_path, cgroup="4:memory:/docker/abc\n")
    _write(tmp_path / "cgroup/memory/memory.limit_in_bytes", "500000\n")
    _write(tmp_path / "cgroup/memory/memory.usage_in_bytes", "300000\n")
    assert available_memory(**system) == 200_000


def test_cpu_quota_limits_threads(tmp_path: Path) -> None:
    system = _system(tmp_path, cgroup="0::/\n")
    _write(tmp_path / "cgroup/cpu.max", "50000 100000\n")
    assert usable_cores(**system) == 1


def test_model_that_does_not_fit_reports_both_sizes() -> None:
    with pytest.raises(ModelDoesNotFit, match=r"memory: it needs 3 bytes, but only 2 are available"):
        require_memory(3, available_bytes=2, where="memory")


def test_machine_has_no_more_memory_than_its_cgroup_allows(tmp_path: Path) -> None:
    system = _system(tmp_path, cgroup="0::/pod\n")
    assert total_memory(**system) == 2000 * 1024
    _write(tmp_path / "cgroup/pod/memory.max", "500000\n")
    assert total_memory(**system) == 500_000
