"""Messages between a sandbox and its decode worker: a line of JSON, and raw bytes whose sizes both sides know.

Nothing is pickled: a decoder of hostile bytes may have written what the parent reads.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from io import BufferedReader
from socket import socket
from typing import Any

STATUS = struct.Struct("<i")

NO_MEMORY = 112
"""The exit code of a decode worker that has no memory left; a message might need some."""


def send(
    sock: socket, header: Mapping[str, Any], buffers: Iterable[bytes | memoryview] = ()
) -> None:
    """Sends a message (raises OSError where the other side is gone)."""
    sock.sendall(json.dumps(header).encode() + b"\n")
    for buffer in buffers:
        sock.sendall(buffer)


def receive(file: BufferedReader) -> dict[str, Any]:
    """The header of the next message (raises EOFError, OSError where the other side is gone)."""
    line = file.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    header: dict[str, Any] = json.loads(line)
    return header
