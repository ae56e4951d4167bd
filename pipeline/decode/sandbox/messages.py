"""Messages between a sandbox and its decode worker.

A message is a line of JSON, followed by raw bytes whose sizes both sides know. Nothing is pickled:
a decoder that a malicious file has taken over could send a pickle that runs code in the parent.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from io import BufferedReader
from socket import socket
from typing import Any

STATUS = struct.Struct("<i")
"""Wait status of the previous decode worker."""

NO_MEMORY = 112
"""Exit code of a decode worker that is out of memory, since sending a message may need memory."""


def send(
    sock: socket, header: Mapping[str, Any], buffers: Iterable[bytes | memoryview] = ()
) -> None:
    """Send a message. Raises OSError if the other side has closed the connection."""
    sock.sendall(json.dumps(header).encode() + b"\n")
    for buffer in buffers:
        sock.sendall(buffer)


def receive(file: BufferedReader) -> dict[str, Any]:
    """Receive the header of the next message.

    Raises EOFError or OSError if the other side has closed the connection.
    """
    line = file.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    header: dict[str, Any] = json.loads(line)
    return header
