"""Opens and decodes untrusted audio files with FFmpeg's demuxers; imports av, never numpy."""

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

from whisper_inference.audio.riff import missing_data_bytes
from whisper_inference.errors import AudioDamaged, AudioTooLong, NotAudio

_DEMUXERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
_OPTIONS = {
    # Playlist demuxers (hls, dash, concat) would open other files and addresses that the upload names.
    "format_whitelist": _DEMUXERS,
    "protocol_whitelist": "file",
}
_SIGNATURES = ((0, b"RIFF"), (0, b"fLaC"), (0, b"OggS"), (0, b"ID3"), (0, b"\x1aE\xdf\xa3"), (4, b"ftyp"), (0, b"FORM"))
"""Offset and magic bytes of common audio formats: a file that starts with one but cannot be opened is damaged."""

_MOV, _MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
_LOSS_RATIO = {"flac": 0.0, "wav": 0.0, "w64": 0.0, "aiff": 0.0, "au": 0.0, "caf": 0.0, _MOV: 0.02, _MATROSKA: 0.02}
"""Tolerated loss, as a fraction of the duration, for demuxers that read the duration from the file (for the others,
FFmpeg may have estimated it from the bit rate). MP4 and Matroska lose some to edit lists and rounding."""

_LOSS_SECONDS = 1.0
"""Tolerated loss in any format; encoder delay and padding are far shorter."""

_SAMPLE_RATES = range(1_000, 768_001)
"""Hz. A lower rate in a header would make a short file huge once it is resampled to 16 kHz."""

_MAX_CHANNELS = 64
"""SWR_CH_MAX of libswresample."""

_MAX_PACKET_BYTES = 64 * 2**20
_DECODER_ERRORS = (FFmpegError, ValueError, ArithmeticError, LookupError, RuntimeError, MemoryError)
"""What PyAV raises on damaged input."""


@dataclass(frozen=True, slots=True)
class AudioInput:
    """An open audio file, ready to be demuxed."""

    container: InputContainer
    """The file, as its demuxer sees it."""
    stream: AudioStream
    """The audio stream to decode."""
    seconds: float | None
    """Duration of the stream; None if it is unknown."""
    declared: bool
    """Whether the duration is stated by the file, not estimated by FFmpeg."""


@dataclass(slots=True)
class DecodeStats:
    """Running totals of demuxing and decoding one file; times are in seconds of audio."""

    decoded_frames: int = 0
    """Frames that were decoded."""
    failed_packets: int = 0
    """Packets that the decoder rejected."""
    failed_seconds: float = 0.0
    """Audio in the rejected packets."""
    demuxed_seconds: float = 0.0
    """Audio in all packets, decoded or not."""
    last_error: str = ""
    """What the demuxer or decoder reported last."""


@contextmanager
def open_audio(path: Path, *, max_audio_seconds: float) -> Generator[AudioInput]:
    """Open the best audio stream of a file.

    Raises NotAudio (unknown format, or no audio in it), AudioDamaged (known format but unreadable), AudioTooLong (by
    its declared duration).
    """
    if path.stat().st_size == 0:
        raise NotAudio(reason="the file is empty")
    try:
        container = av.open(f"file:{path.absolute()}", container_options=_OPTIONS, metadata_errors="replace")
    except _DECODER_ERRORS as error:
        kind = AudioDamaged if _has_known_signature(path) else NotAudio
        raise kind(reason=error_text(error)) from error
    with container:
        audio = _select_audio(container)
        check_length(audio.seconds if audio.declared else None, max_audio_seconds)
        _check_wav_complete(path, audio)
        yield audio


def check_length(seconds: float | None, max_audio_seconds: float) -> None:
    """Raise AudioTooLong if the audio is longer than the limit."""
    if seconds is not None and seconds > max_audio_seconds:
        raise AudioTooLong(seconds=round(seconds, 1), limit_seconds=max_audio_seconds)


def decode_frames(audio: AudioInput, *, stats: DecodeStats, max_packets: int | None = None) -> Iterator[AudioFrame]:
    """Yield the decoded frames, skipping single bad packets as FFmpeg does; decode at most max_packets.

    Packets beyond max_packets are still demuxed and counted in the stats.
    """
    for packet in _packets(audio, stats):
        if max_packets is not None and stats.decoded_frames + stats.failed_packets >= max_packets:
            continue
        try:
            for frame in packet.decode():
                _check_format(frame.sample_rate, frame.layout.nb_channels)
                stats.decoded_frames += 1
                yield frame
        except _DECODER_ERRORS as error:
            stats.failed_packets += 1
            stats.failed_seconds += _packet_seconds(packet)
            stats.last_error = error_text(error)


def check_complete(audio: AudioInput, *, stats: DecodeStats, seconds: float) -> None:
    """Raise AudioDamaged if most packets failed, or clearly less audio was read than the file declares.

    seconds: duration of the audio that was read.
    """
    decoded, failed = stats.decoded_frames, stats.failed_packets
    if decoded == 0 and failed == 0:
        raise AudioDamaged(reason="it contains no audio")
    if failed >= max(decoded, 1):
        raise AudioDamaged(reason=f"{failed} of {decoded + failed} packets cannot be decoded: {stats.last_error}")
    if audio.seconds is None or not audio.declared:
        return
    missing = audio.seconds - seconds - stats.failed_seconds
    if missing > max(_LOSS_SECONDS, _LOSS_RATIO[audio.container.format.name] * audio.seconds):
        raise AudioDamaged(reason=f"it is truncated: it declares {audio.seconds:.1f} s and contains {seconds:.1f} s")


def error_text(error: BaseException) -> str:
    """Return the decoder's message, without the file's path."""
    text = (error.strerror if isinstance(error, FFmpegError) else None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


def _select_audio(container: InputContainer) -> AudioInput:
    stream = container.streams.best("audio")
    if not isinstance(stream, AudioStream):
        raise NotAudio(reason="it has no audio stream")
    if stream.codec_context is None:  # pyright: ignore[reportUnnecessaryComparison] # None without a decoder
        raise NotAudio(reason="its codec is unknown")
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.layout.nb_channels
    if not rate or not channels:
        raise NotAudio(reason="its sample rate or channel count is missing")
    _check_format(rate, channels)
    # One thread: frame threads hold one decoded frame each and gain nothing for audio.
    stream.codec_context.thread_count = 1
    return AudioInput(container, stream, *_duration(container, stream))


def _duration(container: InputContainer, stream: AudioStream) -> tuple[float | None, bool]:
    """Return the duration in seconds, and whether the file declares it."""
    name = container.format.name
    # Matroska states one duration for the file, which is the audio's only if there is no other stream.
    declared = name in _LOSS_RATIO and (name != _MATROSKA or len(container.streams) == 1)
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base), declared
    if container.duration:
        return container.duration / av.time_base, declared
    return None, False


def _check_format(rate: int, channels: int) -> None:
    if rate not in _SAMPLE_RATES:
        raise AudioDamaged(reason=f"it declares a sample rate of {rate} Hz")
    if not 1 <= channels <= _MAX_CHANNELS:
        raise AudioDamaged(reason=f"it declares {channels} channels")


def _check_wav_complete(path: Path, audio: AudioInput) -> None:
    # FFmpeg silently treats the end of the file as the end of the data.
    if audio.container.format.name != "wav":
        return
    missing = missing_data_bytes(path)
    bytes_per_second = (audio.stream.codec_context.bit_rate or 0) / 8
    if bytes_per_second and missing > _LOSS_SECONDS * bytes_per_second:
        raise AudioDamaged(reason=f"it is truncated: {missing} bytes of the declared audio are missing")


def _packets(audio: AudioInput, stats: DecodeStats) -> Iterator[Packet[AudioStream]]:
    try:
        for packet in audio.container.demux(audio.stream):
            if packet.size > _MAX_PACKET_BYTES:
                raise AudioDamaged(reason=f"it declares a packet of {packet.size} bytes")
            stats.demuxed_seconds += _packet_seconds(packet)
            yield packet
    except _DECODER_ERRORS as error:
        # A truncated file ends here: keep what was read, and let check_complete compare it with what is declared.
        stats.last_error = error_text(error)


def _packet_seconds(packet: Packet[AudioStream]) -> float:
    return float(packet.duration * packet.time_base) if packet.duration and packet.time_base else 0.0


def _has_known_signature(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(16)
    return any(head[offset : offset + len(magic)] == magic for offset, magic in _SIGNATURES)
