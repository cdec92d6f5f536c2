"""The worker: one model in one process, from fork to exit. Nothing of it survives an unload."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from whisper_inference import execution
from whisper_inference.audio.sections import SAMPLE_RATE
from whisper_inference.engines.base import Engine, LoadedModel, ModelSpec, TranscriptionCancelled
from whisper_inference.engines.sectioned import SectionTranscribed, SegmentTranscribed, transcribe_file
from whisper_inference.errors import ServiceError
from whisper_inference.worker import protocol, resident

_HEARTBEAT_SECONDS = 1.0
_NICENESS = 5
"""So that the API process, which mostly sleeps, answers at once while a model uses every core."""

Send = Callable[[execution.Message], None]


class _Channel:
    """The stream to the API process; several threads write to it."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, message: execution.Message) -> None:
        with self._lock:
            self._stream.sendall(protocol.frame(message))

    def receive(self) -> protocol.ToWorker | None:
        """Return the next message; None when the other side is gone. No deadline: idle is a normal state."""
        prefix = self._read(protocol.LENGTH_BYTES)
        return protocol.to_worker(self._read(protocol.frame_length(prefix))) if prefix else None

    def _read(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._stream.recv(count - len(parts))
            if not part:
                return b""
            parts += part
        return bytes(parts)


def work(stream: socket.socket, spec: ModelSpec, *, engine: Engine) -> None:
    """Load the model and run jobs until the API process closes the channel or kills this process."""
    os.nice(_NICENESS)
    resident.keep_freed_heap()
    channel = _Channel(stream)
    heartbeat = _Heartbeat()
    threading.Thread(target=_send_heartbeats, args=(channel, heartbeat), daemon=True).start()
    try:
        model = engine.load(
            spec, on_phase=lambda name, seconds: channel.send(protocol.Phase(name=name, seconds=seconds))
        )
    except ServiceError as error:
        channel.send(execution.Refused(job="", code=error.code, params=error.params))
        return
    except Exception as error:  # noqa: BLE001 (the boundary of the load: the API process reports it)
        channel.send(execution.Refused(job="", code="model-load-failed", params={"cause": _description(error)}))
        return
    # Frees what loading left behind; nothing else releases memory between sections.
    resident.trim_heap()
    heartbeat.model = model
    allocated, reserved = model.gpu_bytes()
    channel.send(
        protocol.Ready(
            device=model.device,
            compute_type=model.compute_type,
            gpu_allocated_bytes=allocated,
            gpu_reserved_bytes=reserved,
        )
    )
    _serve(channel, model)


@dataclass(slots=True)
class _Heartbeat:
    """What the heartbeat reports on; the model is set once it is loaded."""

    model: LoadedModel | None = None


class _Cancellations:
    """Which of the jobs that were ordered and have not ended are cancelled; two threads use it.

    A cancellation that arrives after the job's end must not be kept: the job's next attempt would stop at once.
    """

    def __init__(self) -> None:
        self._cancelled: dict[str, bool] = {}
        self._lock = threading.Lock()

    def begin(self, job: str) -> None:
        with self._lock:
            self._cancelled[job] = False

    def cancel(self, job: str) -> None:
        with self._lock:
            if job in self._cancelled:
                self._cancelled[job] = True

    def end(self, job: str) -> None:
        with self._lock:
            self._cancelled.pop(job, None)

    def __contains__(self, job: str) -> bool:
        return self._cancelled.get(job, False)


def _serve(channel: _Channel, model: LoadedModel) -> None:
    orders: SimpleQueue[protocol.Transcribe] = SimpleQueue()
    cancellations = _Cancellations()
    threading.Thread(target=_listen, args=(channel, orders, cancellations), daemon=True).start()
    while True:
        order = orders.get()
        outcome = _outcome(order, model, send=channel.send, cancellations=cancellations)
        cancellations.end(order.job)
        channel.send(outcome)
        # Also after a cancelled or refused job, and after the last section, whose samples are freed only now.
        resident.trim_heap()


def _listen(channel: _Channel, orders: SimpleQueue[protocol.Transcribe], cancellations: _Cancellations) -> None:
    while (message := channel.receive()) is not None:
        if isinstance(message, protocol.Transcribe):
            cancellations.begin(message.job)
            orders.put(message)
        else:
            cancellations.cancel(message.job)
    os._exit(0)


def _send_heartbeats(channel: _Channel, heartbeat: _Heartbeat) -> None:
    while True:
        time.sleep(_HEARTBEAT_SECONDS)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        allocated, reserved = heartbeat.model.gpu_bytes() if heartbeat.model else (0, 0)
        channel.send(
            protocol.Heartbeat(
                cpu_seconds=usage.ru_utime + usage.ru_stime,
                gpu_allocated_bytes=allocated,
                gpu_reserved_bytes=reserved,
            )
        )


def _outcome(
    order: protocol.Transcribe, model: LoadedModel, *, send: Send, cancellations: _Cancellations
) -> execution.Message:
    """Run one job to its end: a worker survives every failure of a job that Python can catch."""
    try:
        return _run(order, model, send=send, cancellations=cancellations)
    except TranscriptionCancelled:
        return execution.Stopped(job=order.job)
    except ServiceError as error:
        return execution.Refused(job=order.job, code=error.code, params=error.params)
    except Exception as error:  # noqa: BLE001 (the boundary of a job)
        return execution.Refused(job=order.job, code="transcription-failed", params={"reason": _description(error)})


def _run(
    order: protocol.Transcribe, model: LoadedModel, *, send: Send, cancellations: _Cancellations
) -> execution.Message:
    def on_progress(seconds: float) -> None:
        if order.job in cancellations:
            raise TranscriptionCancelled
        send(execution.Progress(job=order.job, seconds=seconds))

    # Resumed at the end of the file, there is no section left that has its length.
    seconds = order.resume.next_start_sample / SAMPLE_RATE if order.resume else 0.0
    events = transcribe_file(
        model,
        order.path,
        options=order.options,
        resume=order.resume,
        max_audio_seconds=order.max_audio_seconds,
        on_progress=on_progress,
    )
    for event in events:
        match event:
            case SegmentTranscribed(segment=segment):
                send(execution.SegmentDone(job=order.job, segment=segment))
            case SectionTranscribed():
                # A section's spectrogram and samples leave holes in the heap, which would add up over hours.
                resident.trim_heap()
                seconds = event.duration
                send(
                    execution.SectionDone(job=order.job, segments=event.segments, resume=event.resume, seconds=seconds)
                )
    return execution.Finished(job=order.job, seconds=seconds)


def _description(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
