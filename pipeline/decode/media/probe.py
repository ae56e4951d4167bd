"""What a member's header says: sizes, rates and durations, without decoding it."""

import io
from typing import Any

import av
from av.container import InputContainer
from PIL import Image

from pipeline.decode.media.clip import open_container, sample_error, streams_of
from pipeline.decode.media.image import FORMATS
from pipeline.decode.media.tensor import npy_header
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits
from pipeline.shards.member_checks import check_member
from pipeline.shards.member_suffixes import KINDS_OF

Facts = dict[str, list[Any]]
"""By kind: video: [short side]; audio: [sample rate, seconds or None]; image: [short side, whether
it is grey]; tensor: its shape; text: [number of bytes]. Without a kind that the member lacks."""


def probe(data: bytes, suffix: str) -> Facts:
    """Return what a member of a known suffix contains.

    Raises SampleError: it is not readable as what its suffix says.
    """
    last = suffix.rpartition(".")[2]
    if last == "txt":
        return {"text": [len(data.decode("utf-8-sig", "replace").encode())]}
    check_member(data, suffix)
    if last == "npy":
        return {"tensor": list(npy_header(data)[0])}
    if KINDS_OF[last] == ("image",):
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return {"image": [*side_and_grey(image)]}
        # each format raises its own errors for broken files
        except Exception as error:
            raise SampleError("undecodable", f"Not a readable image: {error}.") from error
    try:
        with open_container(data, Limits()) as container:
            return streams_in(container)
    except av.FFmpegError as error:
        raise sample_error(error, "Not a readable audio or video file") from error


def side_and_grey(image: Image.Image) -> tuple[int, bool]:
    """The short side of an image in pixels, and whether it is grey."""
    return min(image.size), image.mode in ("1", "L", "LA", "I", "I;16", "F")


def streams_in(container: InputContainer) -> Facts:
    """What the streams of a container contain, of audio and video."""
    video, audio = streams_of(container)
    facts: Facts = {}
    if video:
        facts["video"] = [min(video.width, video.height)]
    if audio:
        seconds = container.duration / av.time_base if container.duration else None
        if audio.duration is not None and audio.time_base is not None:
            seconds = float(audio.duration * audio.time_base)
        facts["audio"] = [audio.rate, seconds]
    return facts
