"""Decoding of UTF-8 text to token ids, one per byte or those of a tokenizer."""

from codecs import BOM_UTF8
from hashlib import sha256
from typing import Any

import numpy as np

from pipeline.arrays import Array
from pipeline.decode.config import TextSpec
from pipeline.decode.media.shapes import ID_DTYPE, TOKEN_DTYPE
from pipeline.errors import SampleError

_TOKENIZERS: dict[str, Any] = {}
"""Tokenizers of this process by `tokenizer_key`, since a spec is plain data."""


def tokenizer_key(text: str) -> str:
    """What a resolved spec has as its tokenizer: the hash of its JSON."""
    return f"sha256:{sha256(text.encode()).hexdigest()}"


def add_tokenizer(text: str) -> None:
    """Make a tokenizer, given as JSON of package tokenizers, known to `decode_text`."""
    from tokenizers import Tokenizer

    _TOKENIZERS[tokenizer_key(text)] = Tokenizer.from_str(text)


def decode_text(data: bytes, spec: TextSpec) -> Array | None:
    """Decode text to byte values + 1, padded with zeros, (length,) int16; None if it is blank.

    If the spec has a tokenizer, to its ids, (length,) int64. A byte-order mark is removed, and text
    that is too long is cut, at a character boundary without a tokenizer. All of the text must be
    UTF-8, including the part that is cut off. NUL is valid UTF-8 but rejected: it occurs in UTF-16
    and binary files rather than in text. Raises SampleError.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        # An incomplete character at the end is a sign of a cut file.
        reason = (
            "truncated"
            if error.end == len(data) and error.reason == "unexpected end of data"
            else "undecodable"
        )
        raise SampleError(
            reason, f"Not valid UTF-8: {error.reason} at byte {error.start}."
        ) from error
    if "\0" in text:
        raise SampleError("wrong_type", f"Not UTF-8 text: NUL at byte {data.index(0)}.")
    if not text.removeprefix("\ufeff").strip():
        return None
    if spec.tokenizer:
        tokens = _TOKENIZERS[spec.tokenizer].encode(text.removeprefix("\ufeff"))
        return np.array(tokens.ids, TOKEN_DTYPE)
    # The text is valid, so `ignore` only drops a character that the cut has split.
    kept = data.removeprefix(BOM_UTF8)[: spec.length].decode(errors="ignore").encode()
    ids = np.zeros(spec.length, ID_DTYPE)
    ids[: len(kept)] = np.frombuffer(kept, np.uint8).astype(ID_DTYPE) + 1
    return ids
