"""Containers with pictures and sound: one demux pass for all the modalities that read one member."""

import io
from collections.abc import Mapping
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.arrays import Array
from pipeline.decode.config import AudioSpec, VideoSpec
from pipeline.decode.media.audio import Waveform
from pipeline.decode.media.integrity import check_structure, check_suffix
from pipeline.decode.media.limits import check_most, check_pixels
from pipeline.decode.media.packets import PacketCheck
from pipeline.decode.media.video import decode_frames
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits
from pipeline.shards.member_suffixes import DEMUXERS

_STRICT = {"err_detect": "crccheck+explode"}
# A playlist is media too, and would have FFmpeg open the files and URLs that it names.
_CONTAINER = {"protocol_whitelist": "none", "format_whitelist": ",".join(DEMUXERS)} | _STRICT


def decode_clip(
    data: bytes, suffix: str, wanted: Mapping[str, VideoSpec | AudioSpec], limits: Limits
) -> dict[str, Array | None]:
    """Frames and spectrograms by modality; None where only another modality found its stream (raises SampleError)."""
    check_structure(data)
    try:
        with _open(data, limits) as container:
            check_suffix(suffix, container.format.name)
            return _decode(container, data, wanted, limits)
    except av.FFmpegError as error:
        raise _sample_error(error) from error


def streams_in(data: bytes) -> set[str]:
    """Which of "video" and "audio" a container holds (raises SampleError)."""
    try:
        with _open(data, Limits()) as container:
            return {
                kind
                for kind, stream in (("video", _video(container)), ("audio", _audio(container)))
                if stream
            }
    except av.FFmpegError as error:
        raise _sample_error(error) from error


def _open(data: bytes, limits: Limits) -> InputContainer:
    options = {"max_pixels": str(limits.pixels)}
    return av.open(
        io.BytesIO(data),
        mode="r",
        metadata_errors="ignore",
        options=options,
        container_options=_CONTAINER,
    )


def _sample_error(error: av.FFmpegError) -> SampleError:
    if isinstance(error, MemoryError):
        return SampleError("oversize", f"the decoder got no memory: {error}")
    return SampleError(
        "truncated" if isinstance(error, av.EOFError) else "undecodable",
        f"{type(error).__name__}: {error}",
    )


def _decode(
    container: InputContainer,
    data: bytes,
    wanted: Mapping[str, VideoSpec | AudioSpec],
    limits: Limits,
) -> dict[str, Array | None]:
    films = {name: spec for name, spec in wanted.items() if isinstance(spec, VideoSpec)}
    sounds = {name: Waveform(spec) for name, spec in wanted.items() if isinstance(spec, AudioSpec)}
    video, audio = _video(container) if films else None, _audio(container) if sounds else None
    streams = [stream for stream in (video, audio) if stream]
    if not streams:
        raise SampleError(
            "no_such_stream",
            f"no stream for {', '.join(wanted)} among {[stream.type for stream in container.streams]}",
        )
    check_most((container.duration or 0) / av.time_base, limits.seconds, "seconds")
    for stream in streams:
        _check_header(stream, len(data), limits)
        # Threads of the decoder would compete with the other workers, and frame threads hang when decoding stops early.
        stream.codec_context.thread_count = 1
        stream.codec_context.options = _STRICT | {"max_pixels": str(limits.pixels)}
    packets = _demux(
        container,
        {s.index: PacketCheck(s, container.format.name, data, limits) for s in streams},
        list(sounds.values()),
        len(data),
    )
    out: dict[str, Array | None] = dict.fromkeys(wanted)
    if video:
        out |= decode_frames(video, packets, films, limits)
    if audio:
        out |= {name: sound.spectrogram() for name, sound in sounds.items()}
    return out


def _video(container: InputContainer) -> VideoStream | None:
    """The first video stream that is not cover art."""
    return next(
        (
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic
        ),
        None,
    )


def _audio(container: InputContainer) -> AudioStream | None:
    return next(iter(container.streams.audio), None)


def _check_header(stream: VideoStream | AudioStream, num_bytes: int, limits: Limits) -> None:
    """The stream must have a decoder, its header be within the limits, and what its index points to within the file (raises SampleError)."""
    if stream.codec_context is None:
        raise SampleError("undecodable", f"there is no decoder for stream {stream.index}")
    if stream.duration and stream.time_base:
        check_most(float(stream.duration * stream.time_base), limits.seconds, "seconds")
    if isinstance(stream, VideoStream):
        check_pixels(stream.codec_context.width, stream.codec_context.height, limits)
        check_most(float(stream.average_rate or 0), limits.fps, "frames a second")
        check_most(stream.frames, limits.frames, "frames")
    else:
        check_most(stream.codec_context.channels, limits.channels, "channels")
    if any(entry.pos + entry.size > num_bytes for entry in stream.index_entries):
        raise SampleError(
            "truncated",
            f"the index of stream {stream.index} points behind the end of the file, at byte {num_bytes}",
        )


def _demux(
    container: InputContainer,
    checks: Mapping[int, PacketCheck],
    sounds: list[Waveform],
    num_bytes: int,
) -> list["av.Packet[Any]"]:
    """Reads all packets once: sound is decoded as it comes, the packets of the pictures are returned."""
    packets: list[av.Packet[Any]] = []
    for packet in container.demux(*checks):
        if packet.size and not checks[packet.stream_index].add(packet):
            continue
        if isinstance(packet.stream, VideoStream):
            if packet.size:
                packets.append(packet)
        elif isinstance(packet.stream, AudioStream) and not all(sound.full for sound in sounds):
            for frame in _decode_sound(packet.stream, packet, num_bytes):
                for sound in sounds:
                    sound.add(frame)
    for check in checks.values():
        check.close()
    for sound in sounds:
        sound.add(None)
    return packets


def _decode_sound(
    stream: AudioStream, packet: "av.Packet[Any]", num_bytes: int
) -> list[av.AudioFrame]:
    try:
        return stream.decode(packet)
    except av.InvalidDataError as error:
        if packet.pos is not None and packet.pos + packet.size >= num_bytes:
            raise SampleError(
                "truncated", f"the last packet, of {packet.size} bytes, is cut or damaged"
            ) from error
        raise
