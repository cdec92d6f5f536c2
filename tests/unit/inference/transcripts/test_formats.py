"""Rendered transcripts, compared with openai-whisper's writers and read back by a subtitle library."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace

import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from whisper.utils import ResultWriter, WriteSRT, WriteTSV, WriteTXT, WriteVTT

from whisper_inference.transcripts.formats import MEDIA_TYPES, Format, render_transcript
from whisper_inference.transcripts.transcript import Segment, Transcript, Word

SPOKEN = [
    (0.0, 7.6, " And so, my fellow Americans,"),
    (7.6, 11.0005, " ask not what your country can do for you --> ask"),
    (11.0, 11.0, " AT&T paid 5 > 3 of 100% (ação, 北京, 🙂)."),
    (3599.9996, 7325.25, " Over\tan hour."),
]


def segment(number: int, start: float, end: float, text: str) -> Segment:
    return Segment(number, int(start * 100), start, end, text, (50364, 7, 50414), 0.2, -0.3, 1.1, 0.02)


def transcript(spoken: list[tuple[float, float, str]]) -> Transcript:
    segments = tuple(segment(number, *one) for number, one in enumerate(spoken))
    return Transcript("".join(one.text for one in segments), "pt", 7325.25, segments)


def with_words(plain: Transcript) -> Transcript:
    def words(one: Segment) -> tuple[Word, ...]:
        texts = [f" {word}" for word in one.text.split()]
        return tuple(Word(one.start + 0.1 * n, one.start + 0.1 * n + 0.09, text, 0.9) for n, text in enumerate(texts))

    return replace(plain, segments=tuple(replace(one, words=words(one)) for one in plain.segments))


def as_whisper_writes(writer: ResultWriter, result: Transcript) -> str:
    fields = asdict(result)
    for one in fields["segments"]:
        if not one["words"]:
            del one["words"]
    file = io.StringIO()
    writer.write_result(fields, file=file)
    return file.getvalue()


@pytest.mark.parametrize(
    "writer_and_format", [(WriteTXT, "text"), (WriteSRT, "srt"), (WriteVTT, "vtt"), (WriteTSV, "tsv")]
)
def test_output_equals_whispers_command_line(writer_and_format: tuple[type[ResultWriter], Format]) -> None:
    writer, name = writer_and_format
    assert render_transcript(transcript(SPOKEN), name) == as_whisper_writes(writer("."), transcript(SPOKEN))


@pytest.mark.parametrize("writer_and_format", [(WriteSRT, "srt"), (WriteVTT, "vtt"), (WriteTSV, "tsv")])
def test_word_timestamps_time_the_cues_like_whispers_command_line(
    writer_and_format: tuple[type[ResultWriter], Format],
) -> None:
    writer, name = writer_and_format
    result = with_words(transcript([one for one in SPOKEN if "-->" not in one[2]]))
    assert render_transcript(result, name) == as_whisper_writes(writer("."), result)


# A subtitle reader interprets its own markup (tags, overrides, timestamps), so that text would not round-trip.
readable = st.text(st.characters(exclude_characters="<{\\", exclude_categories=["Cs", "Cc"]), max_size=60)
breaking = st.sampled_from(["\n\n", "-->", "\r\n", "\u2028", "\x0b", "\t", "12\n", "\0"])
milliseconds = st.integers(0, 99 * 3_600_000)


@given(st.lists(st.tuples(milliseconds, milliseconds, st.lists(readable | breaking).map("".join)), max_size=8))
@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_subtitle_library_reads_the_same_times_and_texts(name: Format, spoken: list[tuple[int, int, str]]) -> None:
    result = transcript([(start / 1000, end / 1000, text) for start, end, text in spoken])
    read = pysubs2.SSAFile.from_string(render_transcript(result, name), format_=name)
    expected = [
        (start, end, " ".join(text.replace("\0", "").replace("-->", "->").split()))
        for start, end, text in spoken
        if text.replace("\0", "").split()
    ]
    assert [(event.start, event.end, " ".join(event.plaintext.split())) for event in read] == expected


def test_vtt_escapes_tags_in_text() -> None:
    assert "a &lt;b> c" in render_transcript(transcript([(0, 1, " a <b> c")]), "vtt")


@pytest.mark.parametrize("name", MEDIA_TYPES)
def test_every_format_can_render_silence(name: Format) -> None:
    silence = Transcript("", "en", 1.0, ())
    expected = {"json": '{"text":""}', "vtt": "WEBVTT\n\n", "tsv": "start\tend\ttext\n", "text": "", "srt": ""}
    if name in expected:
        assert render_transcript(silence, name) == expected[name]
    else:
        assert json.loads(render_transcript(silence, name))["segments"] == []


def test_verbose_json_matches_openai() -> None:
    result = with_words(transcript([(0.0, 1.0, " Olá mundo.")]))
    document = json.loads(
        render_transcript(result, "verbose_json", task="translate", granularities=("segment", "word"))
    )
    assert document == {
        "task": "translate",
        "language": "portuguese",
        "duration": 7325.25,
        "text": "Olá mundo.",
        "segments": [
            {
                "id": 0,
                "seek": 0,
                "start": 0.0,
                "end": 1.0,
                "text": " Olá mundo.",
                "tokens": [50364, 7, 50414],
                "temperature": 0.2,
                "avg_logprob": -0.3,
                "compression_ratio": 1.1,
                "no_speech_prob": 0.02,
            }
        ],
        "words": [{"word": "Olá", "start": 0.0, "end": 0.09}, {"word": "mundo.", "start": 0.1, "end": 0.19}],
    }


def test_word_granularity_alone_omits_segments() -> None:
    document = json.loads(render_transcript(transcript(SPOKEN), "verbose_json", granularities=("word",)))
    assert "segments" not in document
    assert document["words"] == []
