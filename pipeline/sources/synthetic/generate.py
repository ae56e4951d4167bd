"""Generator of synthetic multimodal samples.

The class of a sample can be recognized in every modality. Each modality of a sample has its own
random noise level, independent of the others.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.arrays import Array
from pipeline.decode.config import (
    AudioSpec,
    DecodeConfig,
    ImageSpec,
    ModalitySpec,
    TensorSpec,
    TextSpec,
    VideoSpec,
)
from pipeline.sources.checks import one_of, require
from pipeline.sources.shard_writer import JsonValue, NewSample, Progress, check_vacant, write_shards
from pipeline.sources.splits import carve
from pipeline.sources.synthetic import encoding, patterns

SPECS: dict[str, ModalitySpec] = {
    "audio": AudioSpec(kind="audio", member=("mp4",), seconds=1.0, hop=256),
    "video": VideoSpec(kind="video", member=("mp4",), frames=4, size=48),
    "image": ImageSpec(kind="image", member=("image.png",), size=48),
    "tensor": TensorSpec(kind="tensor", member=("tensor.npy",), shape=(6, 64)),
    "text": TextSpec(kind="text", member=("text.txt",), length=96),
}
"""The modalities that can be generated, with suitable decode settings."""


def generate(
    out: Path,
    *,
    samples: int,
    classes: int,
    shards: int,
    seed: int,
    modalities: Sequence[str] = ("audio", "video"),
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
    progress: Progress | None = None,
) -> dict[str, JsonValue]:
    """Write shards of generated samples.

    Args:
        out: folder to create.
        samples: number of samples.
        classes: number of classes.
        shards: number of shards.
        seed: seed of the samples and splits.
        modalities: names from `SPECS`, at least two.
        shares: fractions of the train, validation and test splits.
        progress: called after each sample.
    Returns:
        The content of shards.json.
    Raises:
        InputError: an argument is invalid, or `out` is not empty.
        StoreError: `out` cannot be written.
    """
    check_vacant(out)
    _check(samples, classes, shards, seed, modalities, shares)
    digits = max(2, len(str(classes - 1)))
    labels = [f"class-{number % classes:0{digits}d}" for number in range(samples)]
    splits = _splits(labels, shares, seed)
    return write_shards(
        out,
        _samples(labels, splits, classes, seed, modalities),
        num_samples=samples,
        num_shards=shards,
        decode=DecodeConfig(modalities={name: SPECS[name] for name in modalities}),
        origin={
            "source": "generate",
            "samples": samples,
            "classes": classes,
            "seed": seed,
            "modalities": list(modalities),
            "shares": list(shares),
        },
        progress=progress,
    )


def _check(
    samples: int,
    classes: int,
    shards: int,
    seed: int,
    modalities: Sequence[str],
    shares: tuple[float, float, float],
) -> None:
    for name in modalities:
        require(name in SPECS, f"Modality cannot be generated: {name!r}", one_of(name, SPECS))
    require(
        1 < len(modalities) == len(set(modalities)),
        f"Invalid modalities: {', '.join(modalities) or 'none'}",
        f"Choose at least two different ones of {', '.join(SPECS)}.",
    )
    require(classes > 1, f"Invalid number of classes: {classes}", "Pass at least 2.")
    require(
        samples >= classes,
        f"Too few samples: {samples} for {classes} classes",
        "Pass more samples or fewer classes.",
    )
    require(
        1 <= shards <= samples,
        f"Invalid number of shards: {shards}",
        f"Pass 1 to {samples}, the number of samples.",
    )
    require(seed >= 0, f"Negative seed: {seed}", "Pass 0 or a positive integer.")
    require(
        min(shares) >= 0 and shares[0] > 0 and abs(sum(shares) - 1) <= 1e-6,
        f"Invalid shares of train, validation and test: {shares}",
        "Pass non-negative numbers whose sum is 1, with train above 0.",
    )


def _splits(labels: Sequence[str], shares: tuple[float, float, float], seed: int) -> list[str]:
    """Split of each sample; counts are rounded to the nearest sample, train has every class."""
    label_of = {str(number): label for number, label in enumerate(labels)}
    splits = dict.fromkeys(label_of, "train")
    for split, share in (("test", shares[2]), ("validation", shares[1])):
        left = {name: label for name, label in label_of.items() if splits[name] == "train"}
        carved = carve([*left], [*left.values()], share * len(labels) / len(left), seed, split)
        require(
            share == 0 or len(carved) > 0,
            f"No sample left for {split}: its share is {share} of {len(labels)} samples",
            "Pass more samples or a larger share.",
        )
        splits |= dict.fromkeys(carved, split)
    return [*splits.values()]


def _samples(
    labels: Sequence[str], splits: Sequence[str], classes: int, seed: int, modalities: Sequence[str]
) -> Iterator[NewSample]:
    for number, (label, split) in enumerate(zip(labels, splits, strict=True)):
        # A generator per modality, so that its content does not depend on the other ones selected.
        rngs = {
            name: np.random.default_rng([seed, number, stream]) for stream, name in enumerate(SPECS)
        }
        noise = {name: float(rngs[name].uniform()) for name in modalities}
        arrays = {
            name: patterns.PATTERNS[name](number % classes, noise[name], rngs[name])
            for name in modalities
        }
        key = f"sample-{number:06d}"
        yield NewSample(
            key=key,
            sample_id=key,
            label=label,
            split=split,
            metadata={"noise": dict(noise)},
            members=_members(arrays),
        )


def _members(arrays: dict[str, Array]) -> dict[str, bytes]:
    """Encode arrays by modality as members by suffix; video and audio share an MP4."""
    members = {}
    if "video" in arrays or "audio" in arrays:
        members["mp4"] = encoding.mp4(
            arrays.get("video"), patterns.FPS, arrays.get("audio"), patterns.SAMPLE_RATE
        )
    if "image" in arrays:
        members["image.png"] = encoding.png(arrays["image"])
    if "tensor" in arrays:
        members["tensor.npy"] = encoding.npy(arrays["tensor"])
    if "text" in arrays:
        members["text.txt"] = encoding.txt(arrays["text"])
    return members
