"""Deferred imports: not executed until needed, and then the real modules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testing.audio_files import JFK
from testing.spoken_words import ASK_NOT, normalized
from whisper_inference.engines.lazy_imports import BLOCKED_MODULES, DEFERRED_MODULES

PRELOADED = """
import importlib, json, sys, types
from whisper_inference.engines.openai_whisper import OpenAIWhisper
engine = OpenAIWhisper()
engine.preload("tiny.en")
names = json.loads(sys.argv[1])
"""

STILL_DEFERRED = """
def deferred():
    return [name for name in names if name in sys.modules and type(sys.modules[name]) is not types.ModuleType]
"""

LOAD = """
from whisper_inference.engines.base import ModelSpec
from whisper_inference.engines.sectioned import SectionTranscribed, transcribe_file
from whisper_inference.transcripts.transcript import Options
spec = ModelSpec("tiny.en", engine="openai-whisper", cache_dir=sys.argv[2], device="cpu", path=sys.argv[3])
model = engine.load(spec, on_phase=lambda *_: None)
"""

TRANSCRIBE = """
def transcribe(words):
    options = Options(word_timestamps=words)
    events = transcribe_file(model, sys.argv[4], options=options, max_audio_seconds=60, on_progress=lambda _: None)
    return [segment for event in events if isinstance(event, SectionTranscribed) for segment in event.segments]
"""

REPORT = """
text = "".join(segment.text for segment in transcribe(False))
after_text = deferred()
words = [(word.word, word.start) for segment in transcribe(True) for word in segment.words]
import whisper.timing
compiled = [type(getattr(whisper.timing, name)).__module__ for name in ("backtrace", "dtw_cpu")]
print(json.dumps([text, after_text, words, deferred(), compiled]))
"""

# Forked like a worker: each deferred module is executed in a process that has executed none of the others.
EXECUTE = """
import os
from torch import nn
import torch

def run(name):
    module = importlib.import_module(name)
    assert name in deferred()
    getattr(module, "anything", None)
    assert name not in deferred()
    assert type(module) is types.ModuleType
    assert len(vars(module)) > 5
    assert nn.Linear(4, 2)(torch.ones(4)).shape == (2,)

def status_of(name):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            run(name)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(child, 0)[1]

print(json.dumps({name: status_of(name) for name in names}))
"""

REGULAR = """
import sys, types
import whisper_inference.engines.lazy_imports as lazy
with lazy.deferred_imports():
    pass
import numba, torch.quantization
print(all(type(module) is types.ModuleType for module in (numba, torch.quantization)))
print(not [finder for finder in sys.meta_path if "Deferring" in type(finder).__name__])
"""


def output_of(code: str, *arguments: str | Path) -> str:
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_transcription_leaves_modules_deferred_and_words_execute_numba(
    weights: dict[str, Path], tmp_path: Path
) -> None:
    code = PRELOADED + STILL_DEFERRED + LOAD + TRANSCRIBE + REPORT
    printed = output_of(code, json.dumps(list(DEFERRED_MODULES)), tmp_path, weights["openai-whisper"], JFK)
    text, after_text, words, after_words, compiled = json.loads(printed)
    assert ASK_NOT in normalized(text)
    assert "numba" in after_text
    assert len(after_text) >= len(DEFERRED_MODULES) // 2, "a plain transcription executes few of them"
    assert "numba" not in after_words
    assert all(module.startswith("numba.") for module in compiled)
    assert [start for word, start in words if normalized(word) == "fellow"] == [pytest.approx(1.4, abs=0.7)]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: there is no other number of threads")
def test_word_timestamps_keep_the_number_of_threads(weights: dict[str, Path], tmp_path: Path) -> None:
    """A CPU quota allows less than the cores that numba counts; here, one core was usable during the load."""
    load = "import os; cores = os.sched_getaffinity(0); os.sched_setaffinity(0, {min(cores)})\n"
    load += "os.environ.pop('NUMBA_NUM_THREADS', None)" + LOAD
    transcribe = "os.sched_setaffinity(0, cores)" + TRANSCRIBE
    report = "import torch; transcribe(True); print(torch.get_num_threads(), 'numba.core' in sys.modules)"
    code = PRELOADED + load + transcribe + report
    assert output_of(code, "[]", tmp_path, weights["openai-whisper"], JFK).split() == ["1", "True"]


def test_deferred_module_executes_when_needed() -> None:
    printed = output_of(PRELOADED + STILL_DEFERRED + EXECUTE, json.dumps(list(DEFERRED_MODULES)))
    assert json.loads(printed) == dict.fromkeys(DEFERRED_MODULES, 0)


def test_imports_outside_the_block_are_regular() -> None:
    assert output_of(REGULAR).split() == ["True", "True"]


def test_blocked_module_can_be_imported_afterwards() -> None:
    code = PRELOADED + "print([(name in sys.modules, bool(importlib.import_module(name))) for name in names])"
    assert output_of(code, json.dumps(sorted(BLOCKED_MODULES))).strip() == str([(False, True)] * len(BLOCKED_MODULES))
