"""The profile `plain`: a class can be recognized in every modality, at a random noise level.

The noise level of a modality of a sample is independent of all others.
"""

from collections.abc import Iterator

from pipeline.arrays import Array
from pipeline.decode.config import (
    AudioSpec,
    ImageSpec,
    ModalitySpec,
    TensorSpec,
    TextSpec,
    VideoSpec,
)
from pipeline.sources.synthetic import encoding, patterns
from pipeline.sources.synthetic.profile import Members, Metadata, Outline, Profile

SPECS: dict[str, ModalitySpec] = {
    "audio": AudioSpec(kind="audio", member=("mp4",), seconds=1.0, hop=256),
    "video": VideoSpec(kind="video", member=("mp4",), frames=4, size=48),
    "image": ImageSpec(kind="image", member=("image.png",), size=48),
    "tensor": TensorSpec(kind="tensor", member=("tensor.npy",), shape=(6, 64)),
    "text": TextSpec(kind="text", member=("text.txt",), length=96),
}
"""The modalities that can be generated, with suitable decode settings."""


def _draw(outline: Outline) -> Iterator[tuple[Metadata, Members]]:
    for number, label in enumerate(outline.labels):
        rngs = {name: outline.rng(number, stream) for stream, name in enumerate(SPECS)}
        noise = {name: float(rngs[name].uniform()) for name in outline.modalities}
        arrays = {
            name: patterns.PATTERNS[name](label, noise[name], rngs[name])
            for name in outline.modalities
        }
        yield {"noise": dict(noise)}, members(arrays)


def members(arrays: dict[str, Array]) -> Members:
    """Encode arrays by modality as members by suffix; video and audio share an MP4."""
    encoded = {}
    if "video" in arrays or "audio" in arrays:
        encoded["mp4"] = encoding.mp4(
            arrays.get("video"), patterns.FPS, arrays.get("audio"), patterns.SAMPLE_RATE
        )
    if "image" in arrays:
        encoded["image.png"] = encoding.png(arrays["image"])
    if "tensor" in arrays:
        encoded["tensor.npy"] = encoding.npy(arrays["tensor"])
    if "text" in arrays:
        encoded["text.txt"] = encoding.txt(arrays["text"])
    return encoded


PLAIN = Profile(draw=_draw, specs=SPECS, samples=480, shares=(0.7, 0.15, 0.15))
