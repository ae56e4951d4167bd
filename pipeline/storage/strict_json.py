"""JSON from elsewhere -> values that can be written again."""

import json
from typing import Any


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text, whose strings are Unicode: half of a surrogate pair, which JSON can spell, is refused (raises ValueError, RecursionError)."""
    value = json.loads(data)
    if ("\\u" if isinstance(data, str) else b"\\u") in data:  # type: ignore[operator]
        json.dumps(value, ensure_ascii=False).encode()
    return value
