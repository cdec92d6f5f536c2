"""A cold load: time for imports, and for everything else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator

from benchmarks.bench_run import ENGINES, BenchRun, import_times
from benchmarks.measure import Finding, Runs, at_most

NAME = "cold-load"
TITLE = "Load of tiny.en from depth=cold"
_RUNS = 5
_STOCK = {"openai-whisper": "import whisper", "faster-whisper": "import faster_whisper"}


def run(bench: BenchRun) -> Generator[Finding]:
    """Split cold loads into imports and the rest, and imports into packages."""
    for engine in ENGINES:
        yield _loads(bench, engine)
        yield _imports(engine)


def _loads(bench: BenchRun, engine: str) -> Finding:
    waits: list[float] = []
    imports: list[float] = []
    with bench.server(engine) as client:
        client.load()
        for _ in range(bench.runs(_RUNS)):
            client.unload("cold")
            seconds, phases = client.load()
            waits.append(seconds)
            imports.append(phases["import"])
    rest = [1000 * (wait - imported) for wait, imported in zip(waits, imports, strict=True)]
    raw = (Runs.of("whole", "s", waits), Runs.of("import", "s", imports), Runs.of("rest", "ms", rest))
    bound = at_most(200) if engine == "openai-whisper" else None
    return Finding(f"cold load with {engine}, excluding imports", raw[2].median, "ms", bound, raw)


def _imports(engine: str) -> Finding:
    ours = f"from whisper_inference.engines.registry import find_engine; find_engine({engine!r}).preload('tiny.en')"
    parts = import_times(_python("-X", "importtime", "-c", ours))
    stock = import_times(_python("-X", "importtime", "-c", _STOCK[engine]))
    raw = tuple(Runs.of(package, "s", [seconds]) for package, seconds in list(parts.items())[:8])
    note = (
        f"modules' own times under -X importtime; for '{_STOCK[engine]}' alone: {sum(stock.values()):.2f} s. Shortened "
        "by compiled bytecode, and by deferring imports that transcription never uses (engines/lazy_imports.py)."
    )
    return Finding(f"imports of {engine}, by package", sum(parts.values()), "s", None, raw, note)


def _python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=120)
    return done.stderr
