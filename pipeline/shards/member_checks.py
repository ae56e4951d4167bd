"""Checks of a member's bytes that need no decoder."""

from pipeline.errors import SampleError

_LFS = b"version https://git-lfs"
LFS_BYTES = 1024
"""Maximum size of a git-lfs pointer (git-lfs specification, "The Pointer")."""


def is_lfs_pointer(data: bytes) -> bool:
    """Whether a file, given by its content or its first bytes, is a git-lfs pointer."""
    return data.startswith(_LFS)


def check_member(data: bytes, suffix: str) -> None:
    """Raise SampleError if the member is empty or a git-lfs pointer."""
    if not data:
        raise SampleError("empty", f"{suffix} is empty")
    if is_lfs_pointer(data):
        raise SampleError(
            "lfs_pointer",
            f"{suffix} is a git-lfs pointer, not the file: run `git lfs pull` and write the shard "
            "again",
        )
