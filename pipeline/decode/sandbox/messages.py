"""Messages between a sandbox and its decode worker.

A message is the length of a JSON text, the text, and raw bytes whose sizes it gives.
"""

import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LENGTH = struct.Struct("<I")

STATUS = struct.Struct("<i")

NO_MEMORY = 112
"""The exit code of a child that has no memory left; a message might need some."""


def frame(header: Mapping[str, Any]) -> list[bytes]:
    """The head of a message."""
    text = json.dumps(header).encode()
    return [LENGTH.pack(len(text)) + text]


def write_all(
    fd: int, buffers: Sequence[bytes | memoryview], wait: Callable[[], None] | None = None
) -> None:
    """Writes all buffers in turn, as they lie in memory; `wait` is called where a pipe that does not block is full."""
    views = [memoryview(buffer) for buffer in buffers if len(buffer)]
    start = 0
    while start < len(views):
        try:
            num = os.writev(fd, views[start : start + 64])
        except BlockingIOError:
            assert wait
            wait()
            continue
        while start < len(views) and num >= views[start].nbytes:
            num -= views[start].nbytes
            start += 1
        if num:
            views[start] = views[start][num:]
