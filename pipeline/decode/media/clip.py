"""Decoding of audio and video containers, in one pass for all modalities that read a member."""

import io
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.arrays import Array
from pipeline.decode.config import AudioSpec, VideoSpec
from pipeline.decode.media.audio import Waveform
from pipeline.decode.media.integrity import check_suffix, checked_structure
from pipeline.decode.media.limits import check_limit, check_pixels
from pipeline.decode.media.packets import PacketCheck
from pipeline.decode.media.video import decode_frames
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits
from pipeline.shards.member_suffixes import DEMUXERS, DEMUXERS_OF

_STRICT = {"err_detect": "crccheck+explode"}
# A playlist could make FFmpeg open local files and URLs, so only these formats are allowed.
_CONTAINER = {"protocol_whitelist": "none", "format_whitelist": ",".join(DEMUXERS)} | _STRICT


def decode_clip(
    data: bytes, suffix: str, specs: Mapping[str, VideoSpec | AudioSpec], limits: Limits
) -> dict[str, Array | None]:
    """Decode the frames and spectrograms of a container.

    Args:
        data: content of the member.
        suffix: suffix of the member.
        specs: spec of each modality that reads the member.
        limits: limits on duration, pixels, frames, frame rate and channels.
    Returns:
        An array per modality, or None if the container has no stream for it.
    Raises:
        SampleError: the container is damaged, exceeds a limit or has no stream for any modality.
    """
    data = checked_structure(data)
    last = suffix.rpartition(".")[2]
    problem = f"Not a readable {last.upper() if last in DEMUXERS_OF else 'audio or video file'}"
    try:
        with open_container(data, limits) as container:
            check_suffix(suffix, container.format.name, data)
            problem = "Damaged audio or video data"
            return _decode(container, data, specs, limits)
    except av.FFmpegError as error:
        raise sample_error(error, problem) from error


def open_container(data: bytes, limits: Limits) -> InputContainer:
    """Open a container of one of the known formats. Raises av.FFmpegError."""
    options = {"max_pixels": str(limits.pixels)}
    return av.open(
        io.BytesIO(data),
        mode="r",
        metadata_errors="ignore",
        options=options,
        container_options=_CONTAINER,
    )


def sample_error(error: av.FFmpegError, problem: str) -> SampleError:
    """Convert an FFmpeg error; `problem` describes it unless the error itself is specific."""
    if isinstance(error, MemoryError):
        return SampleError("oversize", "Decoding ran out of memory.")
    if isinstance(error, av.EOFError):
        return SampleError("truncated", "File cut short: unexpected end of data.")
    if isinstance(error, av.InvalidDataError):
        return SampleError("undecodable", f"{problem}.")
    return SampleError("undecodable", f"{problem}: {error.strerror or type(error).__name__}.")


def _decode(
    container: InputContainer,
    data: bytes,
    specs: Mapping[str, VideoSpec | AudioSpec],
    limits: Limits,
) -> dict[str, Array | None]:
    video_specs = {name: spec for name, spec in specs.items() if isinstance(spec, VideoSpec)}
    video_lead, audio_lead = _leads(container)
    waveforms = {
        name: Waveform(spec, audio_lead)
        for name, spec in specs.items()
        if isinstance(spec, AudioSpec)
    }
    video, audio = streams_of(container)
    video, audio = video if video_specs else None, audio if waveforms else None
    streams = [stream for stream in (video, audio) if stream]
    if not streams:
        raise SampleError(
            "no_such_stream",
            f"No stream for {', '.join(specs)}. The file has"
            f" {', '.join(stream.type for stream in container.streams) or 'no'} streams.",
        )
    check_limit((container.duration or 0) / av.time_base, "seconds", limits, "seconds")
    for stream in streams:
        _check_header(stream, len(data), limits)
        # Decoder threads would compete with the other workers, and frame threads hang if decoding
        # stops early.
        stream.codec_context.thread_count = 1
        stream.codec_context.options = _STRICT | {"max_pixels": str(limits.pixels)}
    packets = _demux(
        container,
        {s.index: PacketCheck(s, container.format.name, data, limits) for s in streams},
        list(waveforms.values()),
        len(data),
    )
    out: dict[str, Array | None] = dict.fromkeys(specs)
    if video:
        out |= decode_frames(video, packets, video_specs, video_lead, limits)
    if audio:
        out |= {name: waveform.spectrogram() for name, waveform in waveforms.items()}
    return out


def streams_of(container: InputContainer) -> tuple[VideoStream | None, AudioStream | None]:
    """Return the first video stream that is not cover art, and the first audio stream."""
    videos = (
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    )
    return next(videos, None), next(iter(container.streams.audio), None)


def _leads(container: InputContainer) -> tuple[Fraction, Fraction]:
    """Return how many seconds after the start of the clip its video and its audio start.

    The clip starts with the earlier of the two, whether or not both are decoded. FFmpeg's start
    times follow edit lists and exclude priming samples that the decoder skips.
    """
    video, audio = (
        stream.start_time * stream.time_base
        if stream and stream.start_time is not None and stream.time_base
        else None
        for stream in streams_of(container)
    )
    if video is None or audio is None:
        return Fraction(), Fraction()
    return max(video - audio, Fraction()), max(audio - video, Fraction())


def _check_header(stream: VideoStream | AudioStream, num_bytes: int, limits: Limits) -> None:
    """Check that a stream has a decoder, respects the limits and is indexed within the file.

    Raises SampleError.
    """
    if stream.codec_context is None:
        raise SampleError("undecodable", f"No decoder for stream {stream.index}.")
    if stream.duration and stream.time_base:
        check_limit(float(stream.duration * stream.time_base), "seconds", limits, "seconds")
    if isinstance(stream, VideoStream):
        check_pixels(stream.codec_context.width, stream.codec_context.height, limits)
        check_limit(float(stream.average_rate or 0), "fps", limits, "frames per second")
        check_limit(stream.frames, "frames", limits, "frames")
    else:
        check_limit(stream.codec_context.channels, "channels", limits, "channels")
    if any(entry.pos + entry.size > num_bytes for entry in stream.index_entries):
        raise SampleError(
            "truncated",
            f"File cut short: the index of stream {stream.index} points beyond its"
            f" {num_bytes:,} bytes.",
        )


def _demux(
    container: InputContainer,
    checks: Mapping[int, PacketCheck],
    waveforms: list[Waveform],
    num_bytes: int,
) -> list["av.Packet[Any]"]:
    """Read all packets: decode the audio packets immediately, and return the video packets."""
    packets: list[av.Packet[Any]] = []
    for packet in container.demux(*checks):
        if packet.size and not checks[packet.stream_index].add(packet):
            continue
        if isinstance(packet.stream, VideoStream):
            if packet.size:
                packets.append(packet)
        elif isinstance(packet.stream, AudioStream) and not all(
            waveform.is_full for waveform in waveforms
        ):
            for frame in _decode_audio(packet.stream, packet, num_bytes):
                for waveform in waveforms:
                    waveform.add(frame)
    for check in checks.values():
        check.close()
    for waveform in waveforms:
        waveform.add(None)
    return packets


def _decode_audio(
    stream: AudioStream, packet: "av.Packet[Any]", num_bytes: int
) -> list[av.AudioFrame]:
    try:
        return stream.decode(packet)
    except av.InvalidDataError as error:
        if packet.pos is not None and packet.pos + packet.size >= num_bytes:
            raise SampleError(
                "truncated", f"The last packet, of {packet.size} bytes, is cut short or damaged."
            ) from error
        raise
