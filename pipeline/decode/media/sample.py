"""Bytes of a sample -> one array a modality."""

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
    """The array of each modality as `shape_of` says, None where the sample lacks it; modalities that read one container share a pass (raises SampleError)."""
    out: dict[str, Array | None] = dict.fromkeys(specs)
    clips: dict[str, dict[str, VideoSpec | AudioSpec]] = {}
    for name, spec in specs.items():
        suffix = next((suffix for suffix in spec.member if suffix in members), None)
        if suffix is None:
            continue
        with _named(f"{name} ({suffix})"):
            check_member(members[suffix], suffix)
            if isinstance(spec, ImageSpec):
                out[name] = decode_image(members[suffix], spec, limits)
            elif isinstance(spec, TensorSpec):
                out[name] = decode_tensor(members[suffix], spec, limits)
            elif isinstance(spec, TextSpec):
                out[name] = decode_text(members[suffix], spec)
            else:
                clips.setdefault(suffix, {})[name] = spec
    for suffix, wanted in clips.items():
        with _named(f"{', '.join(wanted)} ({suffix})"):
            out |= decode_clip(members[suffix], suffix, wanted, limits)
    return out


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Errors of a sample say which modality and member they are of; too little memory is one of them."""
    try:
        yield
    except SampleError as error:
        raise SampleError(error.reason, f"{what}: {error.detail}") from error
    except MemoryError as error:
        raise SampleError("oversize", f"{what}: decoding took more memory than there is") from error
