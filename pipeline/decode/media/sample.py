"""Decoding of a sample's members to one array per modality."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pipeline.arrays import Array
from pipeline.decode.config import AudioSpec, ImageSpec, TensorSpec, TextSpec, VideoSpec
from pipeline.decode.media.clip import decode_clip
from pipeline.decode.media.image import decode_image
from pipeline.decode.media.shapes import AnySpec
from pipeline.decode.media.tensor import decode_tensor
from pipeline.decode.media.text import decode_text
from pipeline.errors import SampleError
from pipeline.shards.limits import Limits
from pipeline.shards.member_checks import check_member


def decode_sample(
    members: Mapping[str, bytes], specs: Mapping[str, AnySpec], limits: Limits
) -> dict[str, Array | None]:
    """Decode the members of a sample.

    Modalities that read the same container are decoded in one pass.

    Args:
        members: content by suffix.
        specs: spec by modality.
        limits: limits on sizes and counts; time and memory are up to the sandbox.
    Returns:
        An array per modality, with the shape and dtype of `shape_of`, or None if the sample lacks
        the modality: a member, a stream in it, or text that is not blank.
    Raises:
        SampleError: a member cannot be decoded.
    """
    out: dict[str, Array | None] = dict.fromkeys(specs)
    clips: dict[str, dict[str, VideoSpec | AudioSpec]] = {}
    for name, spec in specs.items():
        suffix = next((suffix for suffix in spec.member if suffix in members), None)
        if suffix is None:
            continue
        with _error_prefix(f"{name} ({suffix})"):
            if members[suffix] or not isinstance(spec, TextSpec):
                check_member(members[suffix], suffix)
            if isinstance(spec, ImageSpec):
                out[name] = decode_image(members[suffix], spec, limits)
            elif isinstance(spec, TensorSpec):
                out[name] = decode_tensor(members[suffix], spec, limits)
            elif isinstance(spec, TextSpec):
                out[name] = decode_text(members[suffix], spec)
            else:
                clips.setdefault(suffix, {})[name] = spec
    for suffix, clip_specs in clips.items():
        with _error_prefix(f"{', '.join(clip_specs)} ({suffix})"):
            out |= decode_clip(members[suffix], suffix, clip_specs, limits)
    return out


@contextmanager
def _error_prefix(prefix: str) -> Iterator[None]:
    """Prefix the detail of a SampleError; a MemoryError becomes a SampleError."""
    try:
        yield
    except SampleError as error:
        raise SampleError(error.reason, f"{prefix}: {error.detail}") from error
    except MemoryError as error:
        raise SampleError("oversize", f"{prefix}: Decoding ran out of memory.") from error
