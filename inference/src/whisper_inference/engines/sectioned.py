"""Transcribes a whole file section by section: bounded memory, progress, resume after the last finished section."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from whisper_inference.audio.sections import SAMPLE_RATE, SECTION_SECONDS, Section, sections
from whisper_inference.engines.base import LoadedModel
from whisper_inference.transcripts.transcript import Options, Resume, Segment

OnFileProgress = Callable[[float], None]
"""Called with the seconds of the file that are transcribed; may raise TranscriptionCancelled."""

_SILENCE_PEAK = 10 ** (-60 / 20)
"""-60 dBFS: below it there is no speech, but Whisper would hallucinate some."""

_PROMPT_CHARACTERS = 1000
"""More than the 223 tokens (n_text_ctx / 2 - 1) of previous text that a window can be prompted with."""

_RESET_ABOVE_TEMPERATURE = 0.5
"""Text decoded above it must not prompt the next section (whisper/transcribe.py, prompt_reset_since)."""

_FRAMES_PER_SECOND = 100


@dataclass(frozen=True, slots=True)
class SegmentTranscribed:
    """A segment of the current section (faster-whisper: once it is decoded; openai-whisper: at the section's end)."""

    segment: Segment


@dataclass(frozen=True, slots=True)
class SectionTranscribed:
    """A finished section: its segments, and where to resume after it. duration: seconds of the file so far."""

    segments: tuple[Segment, ...]
    resume: Resume
    duration: float


TranscriptionEvent = SegmentTranscribed | SectionTranscribed


def transcribe_file(
    model: LoadedModel,
    path: str | PathLike[str],
    *,
    options: Options,
    max_audio_seconds: float,
    on_progress: OnFileProgress,
    resume: Resume | None = None,
    max_section_seconds: float = SECTION_SECONDS,
) -> Iterator[TranscriptionEvent]:
    """Yield the segments and sections of a file; times, seeks and ids (from 0) count from its start.

    Resuming after a finished section yields the same as an uninterrupted run. Raises NotAudio, AudioDamaged,
    AudioTooLong, and TranscriptionCancelled from on_progress.
    """
    state = resume or Resume(language=options.language)
    for section in sections(
        path, start_sample=state.next_start_sample, max_seconds=max_section_seconds, max_audio_seconds=max_audio_seconds
    ):
        end_sample = section.start_sample + len(section.samples)
        segments: list[Segment] = []
        if not _is_silent(section.samples):
            state = replace(state, language=state.language or model.detect_language(section.samples))
            for segment in _transcribe_section(model, section, options=options, state=state, on_progress=on_progress):
                segments.append(segment)
                yield SegmentTranscribed(segment)
        state = _next_state(state, segments, next_start_sample=end_sample)
        on_progress(end_sample / SAMPLE_RATE)
        yield SectionTranscribed(tuple(segments), state, duration=end_sample / SAMPLE_RATE)


def _transcribe_section(
    model: LoadedModel, section: Section, *, options: Options, state: Resume, on_progress: OnFileProgress
) -> Iterator[Segment]:
    start, length = section.start_sample / SAMPLE_RATE, len(section.samples) / SAMPLE_RATE
    segments = model.transcribe(
        section.samples,
        options=options,
        language=state.language or "en",
        prompt=state.previous_text if state.next_segment_id else options.initial_prompt,
        on_progress=lambda fraction: on_progress(start + fraction * length),
    )
    for number, segment in enumerate(segments, state.next_segment_id):
        yield _shifted(segment, id=number, seconds=start)


def _shifted(segment: Segment, *, id: int, seconds: float) -> Segment:
    if not seconds:
        return replace(segment, id=id)
    return replace(
        segment,
        id=id,
        seek=segment.seek + round(seconds * _FRAMES_PER_SECOND),
        start=segment.start + seconds,
        end=segment.end + seconds,
        words=tuple(replace(word, start=word.start + seconds, end=word.end + seconds) for word in segment.words),
    )


def _next_state(state: Resume, segments: Sequence[Segment], *, next_start_sample: int) -> Resume:
    return replace(
        state,
        next_start_sample=next_start_sample,
        previous_text=_next_prompt(segments) if segments else state.previous_text,
        next_segment_id=state.next_segment_id + len(segments),
    )


def _next_prompt(segments: Sequence[Segment]) -> str | None:
    """Return the end of the text, from a word's start, without what the library would not prompt with either."""
    text = ""
    for segment in reversed(segments):
        if segment.temperature > _RESET_ABOVE_TEMPERATURE or len(text) > _PROMPT_CHARACTERS:
            break
        text = segment.text + text
    if len(text) > _PROMPT_CHARACTERS:
        text = text[-_PROMPT_CHARACTERS:]
        text = text[text.find(" ") + 1 :]
    return text.strip() or None


def _is_silent(samples: NDArray[np.float32]) -> bool:
    # min and max, not abs, which would copy the section.
    return max(float(samples.max()), -float(samples.min())) < _SILENCE_PEAK
