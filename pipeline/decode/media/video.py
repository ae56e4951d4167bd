"""Selection and decoding of frames of a video stream."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from av import Packet, VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from pipeline.arrays import Array
from pipeline.decode.config import VideoSpec
from pipeline.decode.media.limits import check_limit, check_pixels
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits

# Without these flags the pixels depend on the instruction set of the processor.
_INTERPOLATION = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def decode_frames(
    stream: VideoStream,
    packets: Sequence["Packet[Any]"],
    specs: Mapping[str, VideoSpec],
    lead: Fraction,
    limits: Limits,
) -> dict[str, Array]:
    """Decode the frames that the modalities use, up to the last of them.

    Args:
        stream: the video stream.
        packets: all its packets, in file order.
        specs: spec of each modality that reads the stream.
        lead: seconds of the clip before the stream, in which its first frame is displayed.
        limits: limits on frame rate and pixels.
    Returns:
        (frames, 3, size, size) uint8 per modality.
    Raises:
        SampleError: the stream is damaged or exceeds a limit.
    """
    displayed = [packet for packet in packets if not packet.is_discard]
    timestamps = [packet.pts for packet in displayed if packet.pts is not None]
    # Streams without timestamps, such as raw H.264, are selected from by frame number.
    has_times = len(timestamps) == len(displayed)
    times = sorted(timestamps) if has_times else list(range(len(packets)))
    if not times:
        raise SampleError("empty", "The video stream has no frames.")
    ends = (
        [packet.pts + (packet.duration or 0) for packet in displayed if packet.pts is not None]
        if has_times
        else [len(packets)]
    )
    if has_times and stream.time_base and times[-1] > times[0]:
        fps = (len(times) - 1) / float((times[-1] - times[0]) * stream.time_base)
        check_limit(fps, "fps", limits, "frames per second")
    start = times[0]
    if has_times and stream.time_base:
        start -= math.floor(lead / stream.time_base)
    selected = {name: _select(times, start, max(ends), spec.frames) for name, spec in specs.items()}
    return _decode(stream, packets, specs, selected, has_times, limits)


def _select(times: list[int], start: int, end: int, num: int) -> list[int]:
    """Return the times of the frames that are displayed at the centres of `num` equal segments.

    The segments divide the interval from `start` to `end`. Before the first time, the first frame
    is displayed.
    """
    length = max(end, times[-1] + 1) - start
    return [
        times[max(bisect_right(times, start + (2 * i + 1) * length // (2 * num)) - 1, 0)]
        for i in range(num)
    ]


def _decode(
    stream: VideoStream,
    packets: Sequence["Packet[Any]"],
    specs: Mapping[str, VideoSpec],
    selected: Mapping[str, list[int]],
    has_times: bool,
    limits: Limits,
) -> dict[str, Array]:
    out = {
        name: np.empty((spec.frames, 3, spec.size, spec.size), np.uint8)
        for name, spec in specs.items()
    }
    missing = {time for times in selected.values() for time in times}
    reformatter, count = VideoReformatter(), 0
    for packet in [*packets, None]:
        for frame in stream.decode(packet):
            if frame.is_corrupt:
                raise SampleError("undecodable", f"Frame {count} of {len(packets)} is damaged.")
            time = frame.pts if has_times else count
            count += 1
            if time in missing:
                missing.discard(time)
                for name, times in selected.items():
                    if time in times:
                        out[name][[i for i, t in enumerate(times) if t == time]] = _pixels(
                            frame, specs[name].size, reformatter, limits
                        )
        if not missing:
            return out
    raise SampleError(
        "truncated",
        f"Video cut short: {len(missing)} of the selected frames are missing.",
    )


def _pixels(frame: VideoFrame, size: int, reformatter: VideoReformatter, limits: Limits) -> Array:
    """Return a frame upright, resized and centre-cropped, (3, size, size) uint8."""
    check_pixels(frame.width, frame.height, limits)
    short = min(frame.width, frame.height)
    width, height = (max(size, round(side * size / short)) for side in (frame.width, frame.height))
    if width * height > max(limits.pixels, size * size):
        raise SampleError(
            "oversize",
            f"Frame too large: {width} x {height} pixels after resizing from"
            f" {frame.width} x {frame.height} (limits.pixels: {limits.pixels}).",
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
