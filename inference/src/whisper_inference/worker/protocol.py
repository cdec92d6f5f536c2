"""The messages between API process, zygote and worker, and how they are encoded."""

from __future__ import annotations

import struct

import msgspec

from whisper_inference.engines.base import ModelSpec
from whisper_inference.errors import Param
from whisper_inference.execution import JobInput, Message, Refused, RunEvent


# API process → zygote
class Fork(Message, frozen=True):
    """Fork a worker for this model; the descriptor of its channel is sent along."""

    spec: ModelSpec


class Kill(Message, frozen=True):
    """SIGKILL this worker and reap it."""

    pid: int


# zygote → API process
class Imported(Message, frozen=True):
    """The engine's libraries are imported; seconds: since the process started."""

    seconds: float


class ImportRefused(Message, frozen=True):
    """The engine cannot be imported; the zygote ends."""

    code: str
    params: dict[str, Param]


class Forked(Message, frozen=True):
    """A worker was started."""

    pid: int


class Exited(Message, frozen=True):
    """A worker has ended and is reaped; wait_status: as os.waitpid returns it."""

    pid: int
    wait_status: int


# API process → worker
class Transcribe(JobInput, frozen=True):
    """Transcribe one file: a Run whose audio is on this machine."""

    path: str
    """The audio file."""


class Cancel(Message, frozen=True):
    """Stop transcribing this job as soon as possible."""

    job: str


# worker → API process
class Phase(Message, frozen=True):
    """A phase of the load has ended."""

    name: str
    seconds: float


class Ready(Message, frozen=True):
    """The model is in memory."""

    device: str
    """Where it is: cpu or cuda."""
    compute_type: str
    """The engine's number format, such as float16."""
    gpu_allocated_bytes: int
    """What the engine has allocated on the GPU; 0 if it does not report that."""
    gpu_reserved_bytes: int
    """What the engine has reserved on the GPU; 0 if it does not report that."""


class Heartbeat(Message, frozen=True):
    """Sent once a second; cpu_seconds: CPU time used by the worker so far."""

    cpu_seconds: float
    gpu_allocated_bytes: int
    gpu_reserved_bytes: int


ToZygote = Fork | Kill
FromZygote = Imported | ImportRefused | Forked | Exited
ToWorker = Transcribe | Cancel
OfJob = RunEvent | Refused
FromWorker = Phase | Ready | Heartbeat | OfJob

PACKET_BYTES = 65_536
"""Longest message on the zygote's socket, which keeps message boundaries (SOCK_SEQPACKET)."""

_LENGTH = struct.Struct("!I")
LENGTH_BYTES = _LENGTH.size
MAX_FRAME_BYTES = 64 * 1024 * 1024
"""Longest frame on the worker's stream: a section of 10 minutes with word timestamps stays below 2 MB."""

_encoder = msgspec.json.Encoder()


def encode(message: Message) -> bytes:
    """Return the message as JSON."""
    return _encoder.encode(message)


def frame(message: Message) -> bytes:
    """Return the message with its length in front, for a stream."""
    body = encode(message)
    return _LENGTH.pack(len(body)) + body


def frame_length(prefix: bytes) -> int:
    """Return the number of bytes that follow a prefix of LENGTH_BYTES. Raises ValueError for an absurd one."""
    (length,) = _LENGTH.unpack(prefix)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    return length


def to_zygote(packet: bytes) -> ToZygote:
    """Return the message that a packet holds."""
    return msgspec.json.decode(packet, type=ToZygote)


def from_zygote(packet: bytes) -> FromZygote:
    """Return the message that a packet holds."""
    return msgspec.json.decode(packet, type=FromZygote)


def to_worker(body: bytes) -> ToWorker:
    """Return the message that a frame's body holds."""
    return msgspec.json.decode(body, type=ToWorker)


def from_worker(body: bytes) -> FromWorker:
    """Return the message that a frame's body holds."""
    return msgspec.json.decode(body, type=FromWorker)
