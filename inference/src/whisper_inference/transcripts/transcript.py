"""The data types of a transcription: its options, segments and result. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Task = Literal["transcribe", "translate"]


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller requested for one transcription."""

    language: str | None = None
    """A Whisper language code; None: detect it."""
    task: Task = "transcribe"
    """Whether to keep the spoken language, or to translate to English."""
    word_timestamps: bool = False
    """Whether to time each word."""
    initial_prompt: str | None = None
    """Text that the model is prompted with before the first window."""
    temperature: float | None = None
    """None or 0: greedy decoding, with Whisper's fallback to higher temperatures (0.0 to 1.0 in steps of 0.2). Any
    other value: only this temperature."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a segment."""

    start: float
    """Seconds from the start of the file."""
    end: float
    """Seconds from the start of the file."""
    word: str
    """The word with its punctuation and leading space."""
    probability: float
    """0 to 1, as the model estimates it."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment as Whisper splits the text."""

    id: int
    """Counts from 0 at the start of the file."""
    seek: int
    """Where its 30 s window starts, in frames of 10 ms from the start of the file."""
    start: float
    """Seconds from the start of the file."""
    end: float
    """Seconds from the start of the file."""
    text: str
    """Its text, with a leading space."""
    tokens: tuple[int, ...]
    """The token ids of its text."""
    temperature: float
    """The temperature that its window was decoded at."""
    avg_logprob: float
    """Mean log probability of the window's tokens."""
    compression_ratio: float
    """zlib's ratio for the window's text; high for repetitions."""
    no_speech_prob: float
    """Probability that the window holds no speech."""
    words: tuple[Word, ...] = ()
    """Empty unless word timestamps were requested."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an interrupted transcription resumes: after its last finished section."""

    next_start_sample: int = 0
    """At 16 kHz, from the start of the file."""
    language: str | None = None
    """The language in use; None until the first speech."""
    previous_text: str | None = None
    """The prompt of the next section."""
    next_segment_id: int = 0
    """The id of the next segment."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """A finished transcription."""

    text: str
    """The text of all segments."""
    language: str
    """A Whisper language code."""
    duration: float
    """Seconds of audio."""
    segments: tuple[Segment, ...]
    """All segments, in order."""
