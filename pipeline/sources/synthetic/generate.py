"""Generated samples: encoded clips of classes that can be seen and heard, each sample as clean or noisy in one modality as in the other by chance."""

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
"""What can be generated, and how it is best decoded."""


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
    """Writes shards of generated samples, splits by shares of train, validation and test, and returns their counts (raises InputError, StoreError)."""
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
        require(name in SPECS, f"modality {name!r} cannot be generated", one_of(name, SPECS))
    require(
        1 < len(modalities) == len(set(modalities)),
        f"modalities are {', '.join(modalities) or 'none'}",
        f"give at least two different ones of {', '.join(SPECS)}",
    )
    require(classes > 1, f"classes is {classes}", "give at least 2")
    require(
        samples >= classes,
        f"samples is {samples}, fewer than the {classes} classes",
        "give more samples or fewer classes",
    )
    require(
        1 <= shards <= samples, f"shards is {shards}", f"give 1 to {samples}, the number of samples"
    )
    require(seed >= 0, f"seed is {seed}", "give a number from 0 up")
    require(
        min(shares) >= 0 and shares[0] > 0 and abs(sum(shares) - 1) <= 1e-6,
        f"shares of train, validation and test are {shares}",
        "give numbers from 0 up, train above 0, that sum to 1",
    )


def _splits(labels: Sequence[str], shares: tuple[float, float, float], seed: int) -> list[str]:
    """The split of each sample: counts exact to the nearest sample, every class in train."""
    label_of = {str(number): label for number, label in enumerate(labels)}
    splits = dict.fromkeys(label_of, "train")
    for split, share in (("test", shares[2]), ("validation", shares[1])):
        left = {name: label for name, label in label_of.items() if splits[name] == "train"}
        carved = carve([*left], [*left.values()], share * len(labels) / len(left), seed, split)
        require(
            share == 0 or len(carved) > 0,
            f"{len(labels)} samples leave none for {split} at a share of {share}",
            "give more samples or a larger share",
        )
        splits |= dict.fromkeys(carved, split)
    return [*splits.values()]


def _samples(
    labels: Sequence[str], splits: Sequence[str], classes: int, seed: int, modalities: Sequence[str]
) -> Iterator[NewSample]:
    for number, (label, split) in enumerate(zip(labels, splits, strict=True)):
        # One stream of randomness for each modality, whichever are asked for: a clip sounds alike with and without its picture.
        rngs = {
            name: np.random.default_rng([seed, number, stream]) for stream, name in enumerate(SPECS)
        }
        noise = {name: float(rngs[name].uniform()) for name in modalities}
        made = {
            name: patterns.PATTERNS[name](number % classes, noise[name], rngs[name])
            for name in modalities
        }
        key = f"sample-{number:06d}"
        yield NewSample(
            key=key,
            sample_id=key,
            label=label,
            split=split,
            facts={"noise": dict(noise)},
            members=_members(made),
        )


def _members(made: dict[str, Array]) -> dict[str, bytes]:
    members = {}
    if "video" in made or "audio" in made:
        members["mp4"] = encoding.mp4(
            made.get("video"), patterns.FPS, made.get("audio"), patterns.SAMPLE_RATE
        )
    if "image" in made:
        members["image.png"] = encoding.png(made["image"])
    if "tensor" in made:
        members["tensor.npy"] = encoding.npy(made["tensor"])
    if "text" in made:
        members["text.txt"] = encoding.txt(made["text"])
    return members
