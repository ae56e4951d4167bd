"""Decoding of UTF-8 text to token ids, one per byte."""

from codecs import BOM_UTF8

import numpy as np

from pipeline.arrays import Array
from pipeline.decode.config import TextSpec
from pipeline.decode.media.shapes import ID_DTYPE
from pipeline.errors import SampleError


def decode_text(data: bytes, spec: TextSpec) -> Array | None:
    """Decode text to byte values + 1, padded with zeros, (length,) int16; None if it is blank.

    A byte-order mark is removed, and text that is too long is cut at a character boundary. All of
    the text must be UTF-8, including the part that is cut off. NUL is valid UTF-8 but rejected: it
    occurs in UTF-16 and binary files rather than in text. Raises SampleError.
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
    # The text is valid, so `ignore` only drops a character that the cut has split.
    kept = data.removeprefix(BOM_UTF8)[: spec.length].decode(errors="ignore").encode()
    ids = np.zeros(spec.length, ID_DTYPE)
    ids[: len(kept)] = np.frombuffer(kept, np.uint8).astype(ID_DTYPE) + 1
    return ids
