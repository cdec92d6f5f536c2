"""The library alone, to compare with the server: the same weights in a process with the same imports.

    python -m benchmarks.library ENGINE

reads one JSON command per line from stdin and answers each with one JSON line. Everything that needs torch is in this
process, so that the measuring process stays small and shares no library pages with the measured server.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.audio import SPEECH

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
NICENESS = 5
"""As in the server's worker (worker/child.py)."""
THREADS_SLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}
"""As in the server's worker (worker/supervisor.py)."""
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_ANSWER_SECONDS = 600.0

Answer = dict[str, float | str | bool]


class LibraryFailed(Exception):
    """The library's process exited or timed out."""


@dataclass(frozen=True, slots=True)
class Library:
    """The client of a library process."""

    process: subprocess.Popen[str]

    def ask(self, command: str, **parameters: str) -> Answer:
        """Run one command and return its result. Raises LibraryFailed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"command": command, **parameters}) + "\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(_ANSWER_SECONDS):
                raise LibraryFailed(f"'{command}' timed out after {_ANSWER_SECONDS:g} s")
        line = self.process.stdout.readline()
        if not line:
            raise LibraryFailed(f"the library's process exited during '{command}'")
        return json.loads(line)

    def seconds(self, command: str, **parameters: str) -> float:
        """Run one command and return how long it took."""
        return float(self.ask(command, **parameters)["seconds"])


@contextmanager
def library(engine: str, **environment: str) -> Generator[Library]:
    """Run a process with the engine's library imported until the block ends. environment: additional variables."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.library", engine],
        cwd=ROOT,  # for -m
        # Otherwise importing numpy starts threads, which are not allowed before load_in_fork.
        env={**os.environ, **environment, "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Library(process)
    finally:
        process.kill()
        process.wait(30)


def _load_openai(path: str) -> object:
    import whisper

    return whisper.load_model(path, device="cpu")


def _load_faster(path: str) -> object:
    import faster_whisper

    return faster_whisper.WhisperModel(path, device="cpu", compute_type="int8", cpu_threads=_cores())


def _transcribe_openai(model: object, path: str) -> str:
    import torch
    import whisper

    assert isinstance(model, whisper.Whisper)
    torch.manual_seed(0)
    samples = _decoded(path)
    return str(whisper.transcribe(model, samples, language="en", fp16=False, temperature=TEMPERATURES)["text"])


def _transcribe_faster(model: object, path: str) -> str:
    import ctranslate2
    import faster_whisper

    assert isinstance(model, faster_whisper.WhisperModel)
    ctranslate2.set_random_seed(0)
    segments, _ = model.transcribe(path, language="en", temperature=TEMPERATURES)
    return "".join(segment.text for segment in segments)


def _decoded(path: str) -> NDArray[np.float32]:
    # whisper.load_audio requires an ffmpeg binary.
    import numpy as np

    from testing.long_audio import decoded

    return decoded(Path(path)).astype(np.float32) / np.float32(32768)


LOADERS: dict[str, Callable[[str], object]] = {"openai-whisper": _load_openai, "faster-whisper": _load_faster}
TRANSCRIBERS: dict[str, Callable[[object, str], str]] = {
    "openai-whisper": _transcribe_openai,
    "faster-whisper": _transcribe_faster,
}


def load_in_fork(engine: str, path: str) -> Answer:
    """Load in a fork of this process, as the server's zygote does, and measure inside the fork."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        status = 1
        try:
            began = time.perf_counter()
            LOADERS[engine](path)
            os.write(writing, str(time.perf_counter() - began).encode())
            status = 0
        finally:
            # Never return into the parent's loop; a failure has been printed to stderr.
            if status:
                traceback.print_exc()
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        seconds = pipe.read()
    os.waitpid(child, 0)
    return {"seconds": float(seconds)}


def compare(path: str, cache: str, size: str) -> Answer:
    """Load with the stock library and with the server's engine; return whether both are bit-identical."""
    import torch
    import whisper

    from whisper_inference.engines.base import ModelSpec
    from whisper_inference.engines.openai_whisper import OpenAIWhisper

    spec = ModelSpec(size=size, engine="openai-whisper", cache_dir=cache, device="cpu", path=path)
    ours = OpenAIWhisper().load(spec, on_phase=lambda _name, _seconds: None).model
    torch.set_num_threads(_cores())
    stock = whisper.load_model(path, device="cpu")
    held = dict(ours.state_dict())
    weights = all(torch.equal(tensor, held[name]) for name, tensor in stock.state_dict().items())
    samples = whisper.pad_or_trim(_decoded(str(SPEECH)))
    mel = whisper.log_mel_spectrogram(samples, stock.dims.n_mels)[None]
    tokens = torch.tensor([[50257, 50362, 843, 523]])
    with torch.no_grad():
        logits = torch.equal(ours(mel, tokens), stock(mel, tokens))
    return {"weights": weights, "logits": logits}


def write_random(path: str, size: str) -> Answer:
    """Write a float16 checkpoint with random weights in the shape of a size, in openai-whisper's format.

    Needs memory for the whole checkpoint (3.1 GB for large-v3), because torch.save takes complete tensors.
    """
    import torch

    from whisper_inference.engines.skeleton import build_skeleton, expected_dims

    dims = expected_dims(size)
    assert dims is not None
    generator = torch.Generator().manual_seed(0)
    block = torch.empty(2**22).normal_(std=0.02, generator=generator).to(torch.float16)
    # The skeleton's own pages are never touched, so they use no memory.
    state = {name: _random_like(tensor, block) for name, tensor in build_skeleton(dims, size=size).state_dict().items()}
    torch.save({"dims": dims, "model_state_dict": state}, path)
    return {"parameters": float(sum(tensor.numel() for tensor in state.values()))}


def _random_like(tensor: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """Repeat a block in the shape of a tensor, because drawing 1.5 billion random numbers would take a minute."""
    repeated = block.repeat(-(-tensor.numel() // block.numel()))[: tensor.numel()].reshape(tensor.shape).clone()
    # One-dimensional weights scale layer norms: around zero, there would be no signal left to compare.
    return repeated + 1 if tensor.dim() == 1 else repeated


def serve(engine: str) -> None:
    """Run commands until stdin ends."""
    _import(engine)
    # Libraries and torch's child processes may print to stdout, which must contain only answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    models: dict[str, object] = {}
    for line in sys.stdin:
        command = json.loads(line)
        answers.write(json.dumps(_answer(command, engine=engine, models=models)) + "\n")


def _import(engine: str) -> None:
    import_module("whisper" if engine == "openai-whisper" else "faster_whisper")


def _answer(command: dict[str, str], *, engine: str, models: dict[str, object]) -> Answer:
    match command:
        case {"command": "load", "path": path}:
            return load_in_fork(engine, path)
        case {"command": "transcribe", "model": path, "audio": audio}:
            return _transcribe(engine, path, audio=audio, models=models)
        case {"command": "compare", "path": path, "cache": cache, "size": size}:
            return compare(path, cache, size)
        case {"command": "write random", "path": path, "size": size}:
            return write_random(path, size)
        case _:
            raise ValueError(f"unknown command: {command}")


def _transcribe(engine: str, path: str, *, audio: str, models: dict[str, object]) -> Answer:
    if path not in models:
        os.nice(NICENESS)
        models[path] = LOADERS[engine](path)
        _set_threads(engine)
    began, used = time.perf_counter(), time.process_time()
    text = TRANSCRIBERS[engine](models[path], audio)
    return {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used, "text": text}


def _set_threads(engine: str) -> None:
    if engine == "openai-whisper":
        import torch

        torch.set_num_threads(_cores())


def _cores() -> int:
    from whisper_inference.engines.limits import usable_cores

    return usable_cores()


if __name__ == "__main__":
    serve(sys.argv[1])
