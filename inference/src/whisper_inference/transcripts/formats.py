"""Renders a transcript in the output formats; pure.

text, srt, vtt and tsv follow openai-whisper's own writers (whisper/utils.py, 20250625), so that the output equals that
of its command line. Text that would break the format (line breaks, `-->`, a tab) is cleaned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from typing import Literal

import msgspec

from whisper_inference.transcripts.languages import LANGUAGES
from whisper_inference.transcripts.transcript import Segment, Task, Transcript, Word

Format = Literal["json", "text", "srt", "vtt", "tsv", "verbose_json"]
Granularity = Literal["segment", "word"]

MEDIA_TYPES: dict[Format, str] = {
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "tsv": "text/tab-separated-values; charset=utf-8",
    "verbose_json": "application/json",
}

_OPENAI_SEGMENT_FIELDS = tuple(field.name for field in fields(Segment) if field.name != "words")


@dataclass(frozen=True, slots=True)
class _Cue:
    """One subtitle; start and end in seconds."""

    start: float
    end: float
    text: str


def render_transcript(
    transcript: Transcript,
    output_format: Format,
    *,
    task: Task = "transcribe",
    granularities: Collection[Granularity] = ("segment",),
) -> str:
    """Return the transcript in a format; only verbose_json uses task and granularities.

    Takes milliseconds per hour of audio: call it in a thread for long audio.
    """
    match output_format:
        case "json":
            return _json({"text": transcript.text.strip()})
        case "text":
            return "".join(f"{segment.text.strip()}\n" for segment in transcript.segments)
        case "srt":
            return "".join(_srt(transcript.segments))
        case "vtt":
            return "".join(_vtt(transcript.segments))
        case "tsv":
            return "".join(_tsv(transcript.segments))
        case "verbose_json":
            return _verbose_json(transcript, task, granularities=granularities)


def timestamp(seconds: float, decimal_marker: Literal[".", ","], *, hours: Literal["always", "when needed"]) -> str:
    """Return [HH:]MM:SS.mmm, rounded as whisper.utils.format_timestamp rounds."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hour, minute = divmod(minutes, 60)
    leading = f"{hour:02d}:" if hours == "always" or hour else ""
    return f"{leading}{minute:02d}:{milliseconds // 1000:02d}{decimal_marker}{milliseconds % 1000:03d}"


def _srt(segments: tuple[Segment, ...]) -> Iterator[str]:
    for number, cue in enumerate(_cues(segments), start=1):
        start, end = (timestamp(seconds, ",", hours="always") for seconds in (cue.start, cue.end))
        yield f"{number}\n{start} --> {end}\n{cue.text}\n\n"


def _vtt(segments: tuple[Segment, ...]) -> Iterator[str]:
    yield "WEBVTT\n\n"
    for cue in _cues(segments):
        start, end = (timestamp(seconds, ".", hours="when needed") for seconds in (cue.start, cue.end))
        # A bare < starts a tag and hides what follows; a bare & is shown unchanged (W3C WebVTT, section 6.4).
        text = cue.text.replace("<", "&lt;")
        yield f"{start} --> {end}\n{text}\n\n"


def _tsv(segments: tuple[Segment, ...]) -> Iterator[str]:
    yield "start\tend\ttext\n"
    for segment in segments:
        text = _one_line(segment.text).replace("\t", " ")
        yield f"{round(1000 * segment.start)}\t{round(1000 * segment.end)}\t{text}\n"


def _cues(segments: tuple[Segment, ...]) -> Iterator[_Cue]:
    # If there are words, whisper's writer takes the times from them and omits segments without words.
    has_words = any(segment.words for segment in segments)
    for segment in segments:
        cue = _word_cue(segment.words) if has_words else _Cue(segment.start, segment.end, segment.text)
        text = _one_line(cue.text).replace("-->", "->")
        if text:  # Many readers would take the next cue's number for the text of an empty cue.
            yield _Cue(cue.start, cue.end, text)


def _word_cue(words: tuple[Word, ...]) -> _Cue:
    if not words:
        return _Cue(0.0, 0.0, "")
    return _Cue(words[0].start, words[-1].end, "".join(word.word for word in words))


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.replace("\0", "").splitlines() if line.strip())


def _verbose_json(transcript: Transcript, task: Task, *, granularities: Collection[Granularity]) -> str:
    document: dict[str, object] = {
        "task": task,
        "language": LANGUAGES.get(transcript.language, transcript.language),
        "duration": transcript.duration,
        "text": transcript.text.strip(),
    }
    if "segment" in granularities:
        document["segments"] = [_openai_segment(segment) for segment in transcript.segments]
    if "word" in granularities:
        words = (word for segment in transcript.segments for word in segment.words)
        document["words"] = [{"word": word.word.strip(), "start": word.start, "end": word.end} for word in words]
    return _json(document)


def _openai_segment(segment: Segment) -> dict[str, object]:
    # Not dataclasses.asdict: it deep-copies every token, which takes a second for ten hours of audio.
    return {name: getattr(segment, name) for name in _OPENAI_SEGMENT_FIELDS}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
