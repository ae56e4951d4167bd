"""What all kinds of media share: the largest picture, and the members that are no media at all."""

from pipeline.errors import SampleError

MAX_PIXELS = 2**26
_LFS = b"version https://git-lfs"


def check_member(data: bytes, suffix: str) -> None:
    """Raises SampleError where the member is empty or a git-lfs pointer."""
    if not data:
        raise SampleError("empty", f"{suffix} has no bytes")
    if data.startswith(_LFS):
        raise SampleError("lfs_pointer", f"{suffix} is a git-lfs pointer, not the file: run `git lfs pull` and pack the shard again")


def check_pixels(width: int, height: int) -> None:
    """Raises SampleError where a picture has no area or more than MAX_PIXELS."""
    if not 0 < width * height <= MAX_PIXELS:
        raise SampleError("oversize", f"a picture of {width} x {height} (at most {MAX_PIXELS} pixels)")
