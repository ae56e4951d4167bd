"""Containers with pictures and sound: one demux pass for all the modalities that read one member."""

import io
from collections.abc import Mapping
from typing import Any

import av
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.config import AudioSpec, VideoSpec
from pipeline.errors import SampleError
from pipeline.media.sound import Waveform
from pipeline.media.video import decode_frames

Array = npt.NDArray[Any]
# A playlist is media too, and would have FFmpeg open the files and URLs that it names.
_OPTIONS = {"protocol_whitelist": "none"}


def decode_clip(data: bytes, wanted: Mapping[str, VideoSpec | AudioSpec]) -> dict[str, Array | None]:
    """Frames and spectrograms by modality; None where only another modality found its stream (raises SampleError)."""
    try:
        with av.open(io.BytesIO(data), mode="r", metadata_errors="ignore", options=_OPTIONS) as container:
            return _decode(container, len(data), wanted)
    except (av.FFmpegError, ValueError, ArithmeticError) as error:
        raise SampleError("truncated" if isinstance(error, av.EOFError) else "undecodable", f"{type(error).__name__}: {error}") from error


def streams_in(data: bytes) -> set[str]:
    """Which of "video" and "audio" a container holds (raises SampleError)."""
    try:
        with av.open(io.BytesIO(data), mode="r", metadata_errors="ignore", options=_OPTIONS) as container:
            return {kind for kind, stream in (("video", _video(container)), ("audio", _audio(container))) if stream}
    except (av.FFmpegError, ValueError) as error:
        raise SampleError("undecodable", f"{type(error).__name__}: {error}") from error


def _decode(container: InputContainer, num_bytes: int, wanted: Mapping[str, VideoSpec | AudioSpec]) -> dict[str, Array | None]:
    films = {name: spec for name, spec in wanted.items() if isinstance(spec, VideoSpec)}
    sounds = {name: Waveform(spec) for name, spec in wanted.items() if isinstance(spec, AudioSpec)}
    video, audio = _video(container) if films else None, _audio(container) if sounds else None
    streams = [stream for stream in (video, audio) if stream]
    if not streams:
        raise SampleError("no_such_stream", f"no stream for {', '.join(wanted)} among {[stream.type for stream in container.streams]}")
    for stream in streams:
        if any(entry.pos + entry.size > num_bytes for entry in stream.index_entries):
            raise SampleError("truncated", f"the index of stream {stream.index} points behind the end of the file, at byte {num_bytes}")
    packets = _demux(container, video, audio, list(sounds.values()))
    out: dict[str, Array | None] = dict.fromkeys(wanted)
    if video:
        out |= decode_frames(video, packets, films)
    if audio:
        out |= {name: sound.spectrogram() for name, sound in sounds.items()}
    return out


def _video(container: InputContainer) -> VideoStream | None:
    """The first video stream that is not cover art."""
    return next((stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic), None)


def _audio(container: InputContainer) -> AudioStream | None:
    return next(iter(container.streams.audio), None)


def _demux(container: InputContainer, video: VideoStream | None, audio: AudioStream | None, sounds: list[Waveform]) -> list["av.Packet[Any]"]:
    """Reads all packets once: sound is decoded as it comes, the packets of the pictures are returned."""
    streams = [stream for stream in (video, audio) if stream]
    for stream in streams:
        # Threads of the decoder would compete with the other workers, and frame threads hang when decoding stops early.
        stream.codec_context.thread_count = 1
    packets: list[av.Packet[Any]] = []
    for packet in container.demux(*streams):
        if packet.is_corrupt:
            raise SampleError("truncated", f"the packet at byte {packet.pos} is cut or damaged")
        if isinstance(packet.stream, VideoStream):
            if packet.size:
                packets.append(packet)
        elif all(sound.full for sound in sounds):
            if not video:
                return packets
        elif isinstance(packet.stream, AudioStream):
            for frame in packet.stream.decode(packet):
                for sound in sounds:
                    sound.add(frame)
    for sound in sounds:
        sound.add(None)
    return packets
