"""Whether the bytes of a member are a file at all."""

from pipeline.errors import SampleError

_LFS = b"version https://git-lfs"
LFS_BYTES = 1024
"""The most that a git-lfs pointer has."""


def is_lfs_pointer(data: bytes) -> bool:
    """Whether a file, or its beginning, is what git-lfs leaves in the place of one."""
    return data.startswith(_LFS)


def check_member(data: bytes, suffix: str) -> None:
    """Raises SampleError where the member is empty or a git-lfs pointer."""
    if not data:
        raise SampleError("empty", f"{suffix} has no bytes")
    if is_lfs_pointer(data):
        raise SampleError(
            "lfs_pointer",
            f"{suffix} is a git-lfs pointer, not the file: run `git lfs pull` and pack the shard again",
        )
