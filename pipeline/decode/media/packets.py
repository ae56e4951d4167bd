"""The packets of a container, held against what its header promises and what is allowed."""

import math
from typing import TYPE_CHECKING, Any

from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from pipeline.decode.media.integrity import has_frame_count
from pipeline.decode.media.limits import check_most
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits

if TYPE_CHECKING:
    from av import Packet

_TOLERANCE = 0.1
"""Seconds by which the frame count of an MP3 may be off: encoders differ in whether they count their own delay and the frame that says so."""
# The bytes of FLAC's header, and the last of its frames' codes that stands for channels coded each by itself; those above are kinds of stereo.
_STREAMINFO, _LAST_APART = 34, 7


class PacketCheck:
    """Looks at each packet of one stream, in file order."""

    def __init__(
        self, stream: VideoStream | AudioStream, demuxer: str, data: bytes, limits: Limits
    ) -> None:
        self._stream, self._demuxer, self._data, self._limits = stream, demuxer, data, limits
        self._most_packets = limits.frames if isinstance(stream, VideoStream) else math.inf
        self._most_units = limits.seconds / stream.time_base if stream.time_base else math.inf
        self._first: int | None = None
        self._num = self._duration = 0
        self._junk = self._next = -1
        codec = stream.codec_context
        header = codec.extradata if codec.name == "flac" else None
        self._num_channels = (
            (header[12] >> 1 & 7) + 1 if header is not None and len(header) == _STREAMINFO else None
        )
        self._is_looked_into = isinstance(stream, AudioStream) and (
            self._num_channels is not None or demuxer in ("flac", "mp3")
        )

    def add(self, packet: "Packet[Any]") -> bool:
        """Whether the packet is a part of its stream; False for bytes behind the end of a sound (raises SampleError)."""
        if packet.is_corrupt:
            raise SampleError("truncated", f"the packet at byte {packet.pos} is cut or damaged")
        if self._is_looked_into and not self._is_sound(packet):
            return False
        self._num += 1
        time = packet.pts
        if time is not None:
            if self._first is None:
                self._first = time
            if time - self._first > self._most_units:
                check_most(
                    float((time - self._first) * packet.time_base), self._limits.seconds, "seconds"
                )
        if self._num > self._most_packets:
            check_most(self._num, self._limits.frames, "frames")
        return True

    def _is_sound(self, packet: "Packet[Any]") -> bool:
        if (
            self._demuxer == "flac"
            and self._stream.duration
            and self._duration >= self._stream.duration
        ):
            return False
        head = bytes(packet)[:4]
        if self._demuxer == "mp3" and not self._is_frame(packet, head):
            return False
        if self._num_channels and len(head) == 4:
            num = 2 if head[3] >> 4 > _LAST_APART else (head[3] >> 4) + 1
            if num != self._num_channels:
                raise SampleError(
                    "bad_header",
                    f"a frame at byte {packet.pos} has {num} channels, the header says {self._num_channels}",
                )
        self._duration += packet.duration or 0
        return True

    def _is_frame(self, packet: "Packet[Any]", head: bytes) -> bool:
        """MP3 frames start with a sync word and follow each other without a gap; only bytes behind the last one are no loss (raises SampleError)."""
        position = packet.pos or 0
        if self._junk >= 0 or (0 <= self._next < position):
            raise SampleError(
                "undecodable",
                f"the bytes from {self._junk if self._junk >= 0 else self._next} to {position} are no frame of sound",
            )
        if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
            self._next = position + packet.size
            return True
        self._junk = position
        return False

    def close(self) -> None:
        """The packets seen must last as long as a FLAC or MP3 file promises (raises SampleError)."""
        length, base = self._stream.duration, self._stream.time_base
        if (
            not self._is_looked_into
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
                f"the last {missing:.3f} s of {float(length * base):.3f} s are not there",
            )
