"""Limits of a sample."""

from pydantic import Field

from pipeline.config import StrictModel


class Limits(StrictModel):
    """Limits of a sample and of decoding it, against hostile or broken files.

    A sample above a limit is rejected: reason `timeout` for the time, `oversize` for the others.
    """

    member_bytes: int = Field(default=2**28, ge=1)
    """Maximum size of one file in a shard, in bytes. Raise it for large media files."""
    sample_bytes: int = Field(default=2**29, ge=1)
    """Maximum total size of a sample's files in bytes, and of all incomplete samples kept in memory
    while a shard whose samples are not contiguous is read."""
    shard_bytes: int = Field(default=2**36, ge=1)
    """Maximum decompressed size of a compressed shard, in bytes."""
    seconds: float = Field(default=3600.0, gt=0)
    """Maximum duration of a video or audio stream according to its container, in seconds."""
    pixels: int = Field(default=2**26, ge=1)
    """Maximum width times height of an image or video."""
    fps: float = Field(default=1000.0, gt=0)
    """Maximum average frame rate of a video, in frames per second."""
    frames: int = Field(default=1_000_000, ge=1)
    """Maximum number of frames of a video."""
    channels: int = Field(default=64, ge=1)
    """Maximum number of audio channels."""
    timeout: float = Field(default=60.0, gt=0)
    """Maximum time to decode a sample, in seconds. Raise it for long media or slow machines."""
    memory: int = Field(default=2**31, ge=2**26)
    """Maximum memory to decode a sample, in bytes. Raise it for media of high resolution."""
