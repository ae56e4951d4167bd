"""JSON from untrusted sources."""

import json
from typing import Any


def parse_json(data: bytes | str) -> Any:
    """Parse JSON and reject unpaired surrogates, which JSON can spell but UTF-8 cannot encode.

    Raises ValueError, RecursionError.
    """
    value = json.loads(data)
    if ("\\u" if isinstance(data, str) else b"\\u") in data:  # type: ignore[operator]
        json.dumps(value, ensure_ascii=False).encode()
    return value
