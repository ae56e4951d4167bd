"""Checks of a stream's packets against the header of its container and the limits."""

import math
from typing import TYPE_CHECKING, Any

from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from pipeline.decode.media.integrity import has_frame_count
from pipeline.decode.media.limits import check_limit
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits

if TYPE_CHECKING:
    from av import Packet

_TOLERANCE = 0.1
"""Tolerance of an MP3's duration in seconds.

Encoders differ in whether the frame count includes their delay and the frame that contains it.
"""
_STREAMINFO_BYTES = 34
"""Size of FLAC's stream header (RFC 9639, section 8.2)."""
_MAX_INDEPENDENT = 7
"""Largest channel code of a FLAC frame for independent channels (RFC 9639, section 9.1.3); larger
codes are kinds of stereo."""


class PacketCheck:
    """Checks the packets of one stream, added in file order."""

    def __init__(
        self, stream: VideoStream | AudioStream, demuxer: str, data: bytes, limits: Limits
    ) -> None:
        self._stream, self._demuxer, self._data, self._limits = stream, demuxer, data, limits
        self._max_packets = limits.frames if isinstance(stream, VideoStream) else math.inf
        self._max_ticks = limits.seconds / stream.time_base if stream.time_base else math.inf
        self._first: int | None = None
        self._num = self._duration = 0
        # Byte positions in an MP3: of data that is not a frame, and of the expected next frame.
        self._junk = self._next = -1
        codec = stream.codec_context
        header = codec.extradata if codec.name == "flac" else None
        self._num_channels = (
            (header[12] >> 1 & 7) + 1
            if header is not None and len(header) == _STREAMINFO_BYTES
            else None
        )
        self._checks_frames = isinstance(stream, AudioStream) and (
            self._num_channels is not None or demuxer in ("flac", "mp3")
        )

    def add(self, packet: "Packet[Any]") -> bool:
        """Check a packet, and return False if it is only data after the end of the audio.

        Raises SampleError.
        """
        if packet.is_corrupt:
            raise SampleError(
                "truncated", f"The packet at byte {packet.pos} is cut short or damaged."
            )
        if self._checks_frames and not self._is_audio(packet):
            return False
        self._num += 1
        time = packet.pts
        if time is not None:
            if self._first is None:
                self._first = time
            if time - self._first > self._max_ticks:
                seconds = float((time - self._first) * packet.time_base)
                check_limit(seconds, "seconds", self._limits, "seconds")
        if self._num > self._max_packets:
            check_limit(self._num, "frames", self._limits, "frames")
        return True

    def _is_audio(self, packet: "Packet[Any]") -> bool:
        if (
            self._demuxer == "flac"
            and self._stream.duration
            and self._duration >= self._stream.duration
        ):
            return False
        head = bytes(packet)[:4]
        if self._demuxer == "mp3" and not self._is_mp3_frame(packet, head):
            return False
        if self._num_channels and len(head) == 4:
            num = 2 if head[3] >> 4 > _MAX_INDEPENDENT else (head[3] >> 4) + 1
            if num != self._num_channels:
                raise SampleError(
                    "bad_header",
                    f"The frame at byte {packet.pos} has {num} channels, but the header says"
                    f" {self._num_channels}.",
                )
        self._duration += packet.duration or 0
        return True

    def _is_mp3_frame(self, packet: "Packet[Any]", head: bytes) -> bool:
        """Return whether a packet is an MP3 frame.

        Frames start with a sync word and follow each other without a gap; other data is allowed
        only after the last frame. Raises SampleError.
        """
        position = packet.pos or 0
        if self._junk >= 0 or (0 <= self._next < position):
            start = self._junk if self._junk >= 0 else self._next
            raise SampleError("undecodable", f"Bytes {start} to {position} are not MP3 frames.")
        if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
            self._next = position + packet.size
            return True
        self._junk = position
        return False

    def close(self) -> None:
        """Check the total duration against the header of a FLAC or MP3 file. Raises SampleError."""
        length, base = self._stream.duration, self._stream.time_base
        if (
            not self._checks_frames
            or not length
            or not base
            or (self._demuxer == "mp3" and not has_frame_count(self._data))
        ):
            return
        missing = float((length - self._duration) * base)
        if self._demuxer in ("flac", "mp3") and missing > (
            _TOLERANCE if self._demuxer == "mp3" else 0
        ):
            raise SampleError(
                "truncated",
                f"File cut short: the last {missing:.3f} of {float(length * base):.3f} seconds"
                " are missing.",
            )
