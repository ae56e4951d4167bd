"""Texts: UTF-8 bytes -> the ids of the first of them."""

from codecs import BOM_UTF8

import numpy as np

from pipeline.arrays import Array
from pipeline.decode.config import TextSpec
from pipeline.decode.media.shapes import IDS
from pipeline.errors import SampleError


def decode_text(data: bytes, spec: TextSpec) -> Array:
    """(length,) int16: each byte's value + 1, and zeros behind; no byte-order mark, cut before the first character that does not fit (raises SampleError).

    All of it must be UTF-8, also what is cut off. NUL is refused though UTF-8 has it: texts have none, UTF-16 and binary files do.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        # a character that begins but does not end is what a cut leaves
        reason = (
            "truncated"
            if error.end == len(data) and error.reason == "unexpected end of data"
            else "undecodable"
        )
        raise SampleError(reason, f"not UTF-8: {error.reason} at byte {error.start}") from error
    if "\0" in text:
        raise SampleError("wrong_type", f"a NUL at byte {data.index(0)}: not a text in UTF-8")
    if not text.removeprefix("\ufeff").strip():
        raise SampleError("empty", "a text of nothing but blanks")
    # what is whole before the cut stays, the one character that the cut may split goes
    kept = data.removeprefix(BOM_UTF8)[: spec.length].decode(errors="ignore").encode()
    ids = np.zeros(spec.length, IDS)
    ids[: len(kept)] = np.frombuffer(kept, np.uint8).astype(IDS) + 1
    return ids
