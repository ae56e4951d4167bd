"""Limits on what a sample may be or take."""

from pydantic import Field

from pipeline.config import StrictModel


class Limits(StrictModel):
    """The most that a sample may be or take; one that is more is rejected as `oversize`, or as `timeout`."""

    member_bytes: int = Field(default=2**28, ge=1)
    """Of one member of a shard."""
    sample_bytes: int = Field(default=2**29, ge=1)
    """Of the members of a sample together, and of all samples whose members lie apart in a shard."""
    shard_bytes: int = Field(default=2**36, ge=1)
    """Of a compressed shard, unpacked."""
    seconds: float = Field(default=3600.0, gt=0)
    """Of a film or a sound, by its container."""
    pixels: int = Field(default=2**26, ge=1)
    """Width times height of a picture."""
    fps: float = Field(default=1000.0, gt=0)
    """Frames a second of a film, on average."""
    frames: int = Field(default=1_000_000, ge=1)
    """Of a film."""
    channels: int = Field(default=64, ge=1)
    """Of a sound."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds that decoding a sample may take."""
    memory: int = Field(default=2**31, ge=2**26)
    """Bytes that decoding a sample may take."""
