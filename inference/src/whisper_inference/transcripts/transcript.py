"""The nouns of a transcription: what was asked for, and what was heard. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Task = Literal["transcribe", "translate"]


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller asked of one transcription.

    language: a Whisper language code, or None to detect it. temperature: None or 0 means greedy decoding with
    Whisper's own fallback ladder (0.0 to 1.0 in steps of 0.2); any other value is used alone.
    """

    language: str | None = None
    task: Task = "transcribe"
    word_timestamps: bool = False
    initial_prompt: str | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """One word; start and end in seconds from the start of the file."""

    start: float
    end: float
    word: str
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment as Whisper cuts them; start, end and seek count from the start of the file.

    start, end: seconds. seek: frames of 10 ms. words: empty unless word timestamps were asked for.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an interrupted transcription goes on: after its last finished section.

    next_start_sample: at 16 kHz, from the start of the file. language: None while nothing was heard. previous_text: the
    prompt of the next section.
    """

    next_start_sample: int = 0
    language: str | None = None
    previous_text: str | None = None
    next_segment_id: int = 0


@dataclass(frozen=True, slots=True)
class Transcript:
    """A finished transcription; duration in seconds of audio."""

    text: str
    language: str
    duration: float
    segments: tuple[Segment, ...]
