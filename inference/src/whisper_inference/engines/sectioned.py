"""A whole file through a model, section by section: bounded memory, progress, resume at the last finished section."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from whisper_inference.audio.sections import SAMPLE_RATE, SECTION_SECONDS, Section, sections
from whisper_inference.engines.base import LoadedModel
from whisper_inference.transcripts.transcript import Options, Resume, Segment

OnHeard = Callable[[float], None]
"""Called with the seconds of the file that are done; may raise Cancelled."""

_SILENCE_PEAK = 10 ** (-60 / 20)
"""-60 dBFS: below, there is no speech, and Whisper makes some up."""

_PROMPT_CHARACTERS = 1000
"""More than the 223 tokens (n_text_ctx / 2 - 1) of previous text that a window can be prompted with."""

_RESET_ABOVE_TEMPERATURE = 0.5
"""Text sampled above it is no prompt for what follows (whisper/transcribe.py, prompt_reset_since)."""

_FRAMES_PER_SECOND = 100


@dataclass(frozen=True, slots=True)
class SegmentHeard:
    """A segment of the running section (faster-whisper: as it is found; openai-whisper: at the section's end)."""

    segment: Segment


@dataclass(frozen=True, slots=True)
class SectionDone:
    """A finished section: its segments, and where to resume after it. duration: seconds of the file so far."""

    segments: tuple[Segment, ...]
    resume: Resume
    duration: float


Event = SegmentHeard | SectionDone


def transcribe_file(
    model: LoadedModel,
    path: str | PathLike[str],
    *,
    options: Options,
    max_audio_seconds: float,
    on_heard: OnHeard,
    resume: Resume | None = None,
    max_section_seconds: float = SECTION_SECONDS,
) -> Iterator[Event]:
    """Yield what the model hears in a file; times, seeks and ids (from 0) count from the file's start.

    Resumed after any finished section, the rest equals that of an undisturbed run. Raises NotAudio, AudioDamaged,
    AudioTooLong, and Cancelled from on_heard.
    """
    at = resume or Resume(language=options.language)
    for section in sections(
        path, start_sample=at.next_start_sample, max_seconds=max_section_seconds, max_audio_seconds=max_audio_seconds
    ):
        done = section.start_sample + len(section.samples)
        heard: list[Segment] = []
        if not _is_silent(section.samples):
            at = replace(at, language=at.language or model.detect_language(section.samples))
            for segment in _heard(model, section, options=options, at=at, on_heard=on_heard):
                heard.append(segment)
                yield SegmentHeard(segment)
        at = _after(at, heard, next_start_sample=done)
        on_heard(done / SAMPLE_RATE)
        yield SectionDone(tuple(heard), at, duration=done / SAMPLE_RATE)


def _heard(
    model: LoadedModel, section: Section, *, options: Options, at: Resume, on_heard: OnHeard
) -> Iterator[Segment]:
    start, length = section.start_sample / SAMPLE_RATE, len(section.samples) / SAMPLE_RATE
    found = model.transcribe(
        section.samples,
        options=options,
        language=at.language or "en",
        prompt=at.previous_text if at.next_segment_id else options.initial_prompt,
        on_progress=lambda fraction: on_heard(start + fraction * length),
    )
    for number, segment in enumerate(found, at.next_segment_id):
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


def _after(at: Resume, heard: Sequence[Segment], *, next_start_sample: int) -> Resume:
    return replace(
        at,
        next_start_sample=next_start_sample,
        previous_text=_prompt_of(heard) if heard else at.previous_text,
        next_segment_id=at.next_segment_id + len(heard),
    )


def _prompt_of(heard: Sequence[Segment]) -> str | None:
    """Return the end of the text, from a word's start, without what the library would not be prompted with either."""
    text = ""
    for segment in reversed(heard):
        if segment.temperature > _RESET_ABOVE_TEMPERATURE or len(text) > _PROMPT_CHARACTERS:
            break
        text = segment.text + text
    if len(text) > _PROMPT_CHARACTERS:
        text = text[-_PROMPT_CHARACTERS:]
        text = text[text.find(" ") + 1 :]
    return text.strip() or None


def _is_silent(samples: NDArray[np.float32]) -> bool:
    # min and max, not abs: that would copy the section.
    return max(float(samples.max()), -float(samples.min())) < _SILENCE_PEAK
