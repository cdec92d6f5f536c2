"""Untrusted audio files as FFmpeg's demuxers see them; imports av, never numpy."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet

from whisper_inference.audio.riff import missing_wav_bytes
from whisper_inference.errors import AudioDamaged, AudioTooLong, NotAudio

_DEMUXERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
_OPTIONS = {
    # Playlist demuxers (hls, dash, concat) would open other files and addresses that the upload names.
    "format_whitelist": _DEMUXERS,
    "protocol_whitelist": "file",
}
_SIGNATURES = ((0, b"RIFF"), (0, b"fLaC"), (0, b"OggS"), (0, b"ID3"), (0, b"\x1aE\xdf\xa3"), (4, b"ftyp"), (0, b"FORM"))
"""Offset and first bytes of formats in common use: a file that has one and cannot be opened is damaged, not foreign."""

_MOV, _MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
_MISSING_SHARE = {"flac": 0.0, "wav": 0.0, "w64": 0.0, "aiff": 0.0, "au": 0.0, "caf": 0.0, _MOV: 0.02, _MATROSKA: 0.02}
"""Demuxers whose duration is the writer's statement (for others FFmpeg may have guessed it from the bit rate), and the
share of it that may be missing: edit lists and rounding in MP4 and Matroska."""

_MISSING_SECONDS = 1.0
"""s; encoder delay and padding stay far below."""

_SAMPLE_RATES = range(1_000, 768_001)
"""Hz; outside of it a header is absurd: below, a short file would blow up when it is resampled to 16 kHz."""

_MAX_CHANNELS = 64
"""SWR_CH_MAX of libswresample."""

_MAX_PACKET_BYTES = 64 * 2**20
_FAILED = (FFmpegError, ValueError, ArithmeticError, LookupError, RuntimeError, MemoryError)
"""What PyAV raises on damaged input."""


@dataclass(frozen=True, slots=True)
class OpenAudio:
    """An audio stream that is ready to demux. seconds: as declared or estimated; binding: declared by the writer."""

    container: InputContainer
    stream: AudioStream
    seconds: float | None
    binding: bool


@dataclass(slots=True)
class Tally:
    """What demuxing and decoding met so far; seconds are of this file's own sample rate."""

    decoded: int = 0
    failed: int = 0
    failed_seconds: float = 0.0
    last_failure: str = ""
    demuxed_seconds: float = 0.0


@contextmanager
def opened(path: Path, *, max_audio_seconds: float) -> Generator[OpenAudio]:
    """Open the best audio stream of a file.

    Raises NotAudio (not recognised, or no audio in it), AudioDamaged (recognised but unreadable), AudioTooLong (by
    its own declaration).
    """
    if path.stat().st_size == 0:
        raise NotAudio(reason="the file is empty")
    try:
        container = av.open(f"file:{path.absolute()}", container_options=_OPTIONS, metadata_errors="replace")
    except _FAILED as error:
        kind = AudioDamaged if _is_familiar(path) else NotAudio
        raise kind(reason=words_of(error)) from error
    with container:
        audio = _audio_of(container)
        refuse_longer(audio.seconds if audio.binding else None, max_audio_seconds)
        _refuse_truncated_wav(path, audio)
        yield audio


def refuse_longer(seconds: float | None, max_audio_seconds: float) -> None:
    """Raise AudioTooLong if the audio lasts longer than the limit."""
    if seconds is not None and seconds > max_audio_seconds:
        raise AudioTooLong(seconds=round(seconds, 1), limit_seconds=max_audio_seconds)


def frames(audio: OpenAudio, *, tally: Tally, max_packets: int | None = None) -> Iterator[AudioFrame]:
    """Yield the decoded frames, tolerating single bad packets as FFmpeg does; at most max_packets are decoded.

    Packets beyond max_packets are still demuxed and counted in the tally.
    """
    for packet in _packets(audio, tally):
        if max_packets is not None and tally.decoded + tally.failed >= max_packets:
            continue
        try:
            for frame in packet.decode():
                _refuse_absurd(frame.sample_rate, frame.layout.nb_channels)
                tally.decoded += 1
                yield frame
        except _FAILED as error:
            tally.failed += 1
            tally.failed_seconds += _seconds_of(packet)
            tally.last_failure = words_of(error)


def refuse_damaged(audio: OpenAudio, *, tally: Tally, seconds: float) -> None:
    """Raise AudioDamaged if what was got of a file is clearly less than what it declares or holds.

    seconds: of audio that was got.
    """
    if tally.decoded == 0 and tally.failed == 0:
        raise AudioDamaged(reason="it holds no sound")
    if tally.failed >= max(tally.decoded, 1):
        raise AudioDamaged(reason=f"{tally.failed} of {tally.decoded + tally.failed} packets: {tally.last_failure}")
    if audio.seconds is None or not audio.binding:
        return
    missing = audio.seconds - seconds - tally.failed_seconds
    if missing > max(_MISSING_SECONDS, _MISSING_SHARE[audio.container.format.name] * audio.seconds):
        raise AudioDamaged(reason=f"it is cut off: {audio.seconds:.1f} s are declared, {seconds:.1f} s are there")


def words_of(error: BaseException) -> str:
    """Return the decoder's words, without the file's path."""
    words = (error.strerror if isinstance(error, FFmpegError) else None) or str(error) or type(error).__name__
    return words[:1].lower() + words[1:]


def _audio_of(container: InputContainer) -> OpenAudio:
    stream = container.streams.best("audio")
    if not isinstance(stream, AudioStream):
        raise NotAudio(reason="there is no audio stream in it")
    if stream.codec_context is None:  # pyright: ignore[reportUnnecessaryComparison] # so it is without a decoder
        raise NotAudio(reason="its codec is unknown")
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.layout.nb_channels
    if not rate or not channels:
        raise NotAudio(reason="no sample rate or channel could be found in it")
    _refuse_absurd(rate, channels)
    # One thread: frame threads hold one decoded frame each and win nothing for audio.
    stream.codec_context.thread_count = 1
    return OpenAudio(container, stream, *_duration_of(container, stream))


def _duration_of(container: InputContainer, stream: AudioStream) -> tuple[float | None, bool]:
    name = container.format.name
    # Matroska states one duration for the file: the audio's only where the audio is alone.
    binding = name in _MISSING_SHARE and (name != _MATROSKA or len(container.streams) == 1)
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base), binding
    if container.duration:
        return container.duration / av.time_base, binding
    return None, False


def _refuse_absurd(rate: int, channels: int) -> None:
    if rate not in _SAMPLE_RATES:
        raise AudioDamaged(reason=f"it claims a sample rate of {rate} Hz")
    if not 1 <= channels <= _MAX_CHANNELS:
        raise AudioDamaged(reason=f"it claims {channels} channels")


def _refuse_truncated_wav(path: Path, audio: OpenAudio) -> None:
    # FFmpeg silently takes the file's end for the end of the data.
    if audio.container.format.name != "wav":
        return
    missing = missing_wav_bytes(path)
    bytes_per_second = (audio.stream.codec_context.bit_rate or 0) / 8
    if bytes_per_second and missing > _MISSING_SECONDS * bytes_per_second:
        raise AudioDamaged(reason=f"it is cut off: {missing} bytes of the declared sound are missing")


def _packets(audio: OpenAudio, tally: Tally) -> Iterator[Packet[AudioStream]]:
    try:
        for packet in audio.container.demux(audio.stream):
            if packet.size > _MAX_PACKET_BYTES:
                raise AudioDamaged(reason=f"it claims a packet of {packet.size} bytes")
            tally.demuxed_seconds += _seconds_of(packet)
            yield packet
    except _FAILED as error:
        # The end of a cut-off file: what came before is kept, and refuse_damaged compares it to what was declared.
        tally.last_failure = words_of(error)


def _seconds_of(packet: Packet[AudioStream]) -> float:
    return float(packet.duration * packet.time_base) if packet.duration and packet.time_base else 0.0


def _is_familiar(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(16)
    return any(head[at : at + len(magic)] == magic for at, magic in _SIGNATURES)
