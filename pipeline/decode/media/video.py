"""Pictures of a video stream: which frames are shown at the asked times, and their pixels."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from av import Packet, VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from pipeline.arrays import Array
from pipeline.decode.config import VideoSpec
from pipeline.decode.media.limits import check_most, check_pixels
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits

# Without these flags the pixels depend on the instruction set of the processor.
_INTERPOLATION = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def decode_frames(
    stream: VideoStream,
    packets: Sequence["Packet[Any]"],
    wanted: Mapping[str, VideoSpec],
    limits: Limits,
) -> dict[str, Array]:
    """(T, 3, size, size) uint8 for each modality that reads the stream; decoding stops behind the last frame chosen (raises SampleError)."""
    shown = [packet for packet in packets if not packet.is_discard]
    stamps = [packet.pts for packet in shown if packet.pts is not None]
    timed = len(stamps) == len(shown)
    times = sorted(stamps) if timed else list(range(len(packets)))
    if not times:
        raise SampleError("empty", "the video stream has no frames")
    ends = (
        [packet.pts + (packet.duration or 0) for packet in shown if packet.pts is not None]
        if timed
        else [len(packets)]
    )
    if timed and stream.time_base and times[-1] > times[0]:
        check_most(
            (len(times) - 1) / float((times[-1] - times[0]) * stream.time_base),
            limits.fps,
            "frames a second",
        )
    chosen = {name: _choose(times, max(ends), spec.frames) for name, spec in wanted.items()}
    return _decode(stream, packets, wanted, chosen, timed, limits)


def _choose(times: list[int], end: int, num: int) -> list[int]:
    """Of `num` equal segments of the presentation interval, the time of the frame that is shown at each one's centre."""
    start, length = times[0], max(end, times[-1] + 1) - times[0]
    return [
        times[bisect_right(times, start + (2 * i + 1) * length // (2 * num)) - 1]
        for i in range(num)
    ]


def _decode(
    stream: VideoStream,
    packets: Sequence["Packet[Any]"],
    wanted: Mapping[str, VideoSpec],
    chosen: Mapping[str, list[int]],
    timed: bool,
    limits: Limits,
) -> dict[str, Array]:
    out = {
        name: np.empty((spec.frames, 3, spec.size, spec.size), np.uint8)
        for name, spec in wanted.items()
    }
    missing = {time for times in chosen.values() for time in times}
    reformatter, count = VideoReformatter(), 0
    for packet in [*packets, None]:
        for frame in stream.decode(packet):
            if frame.is_corrupt:
                raise SampleError("undecodable", f"frame {count} of {len(packets)} is damaged")
            time = frame.pts if timed else count
            count += 1
            if time in missing:
                missing.discard(time)
                for name, times in chosen.items():
                    if time in times:
                        out[name][[i for i, t in enumerate(times) if t == time]] = _pixels(
                            frame, wanted[name].size, reformatter, limits
                        )
        if not missing:
            return out
    raise SampleError(
        "truncated",
        f"{len(missing)} of the chosen frames did not come out of {len(packets)} packets",
    )


def _pixels(frame: VideoFrame, size: int, reformatter: VideoReformatter, limits: Limits) -> Array:
    """(3, size, size) uint8: upright, short side resized, centre crop."""
    check_pixels(frame.width, frame.height, limits)
    short = min(frame.width, frame.height)
    width, height = (max(size, round(side * size / short)) for side in (frame.width, frame.height))
    if width * height > max(limits.pixels, size * size):
        raise SampleError(
            "oversize",
            f"a picture of {frame.width} x {frame.height} becomes {width} x {height} (at most {limits.pixels} pixels)",
        )
    scaled = reformatter.reformat(
        frame,
        width,
        height,
        "rgb24",
        interpolation=_INTERPOLATION,
        dst_color_range=ColorRange.JPEG,
        threads=1,
    )
    top, left = (height - size) // 2, (width - size) // 2
    pixels = scaled.to_ndarray()[top : top + size, left : left + size]
    return np.rot90(pixels, round(frame.rotation / 90)).transpose(2, 0, 1)
