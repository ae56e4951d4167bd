"""Generator of synthetic multimodal samples: shards of a profile."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.decode.config import DecodeConfig
from pipeline.sources.checks import one_of, require
from pipeline.sources.shard_writer import JsonValue, NewSample, Progress, check_vacant, write_shards
from pipeline.sources.splits import carve
from pipeline.sources.synthetic.known import CROSSED, HOLLOW, LEAKY
from pipeline.sources.synthetic.plain import PLAIN
from pipeline.sources.synthetic.profile import Outline, Profile, Shares, sample_id
from pipeline.sources.synthetic.slow import SLOW

PROFILES = {"plain": PLAIN, "slow": SLOW, "crossed": CROSSED, "hollow": HOLLOW, "leaky": LEAKY}


def generate(
    out: Path,
    *,
    classes: int,
    shards: int,
    seed: int,
    profile: str = "plain",
    samples: int | None = None,
    modalities: Sequence[str] = ("audio", "video"),
    shares: Shares | None = None,
    progress: Progress | None = None,
) -> dict[str, JsonValue]:
    """Write shards of generated samples.

    Args:
        out: folder to create.
        classes: number of classes.
        shards: number of shards.
        seed: seed of the samples and splits.
        profile: name from `PROFILES`.
        samples: number of samples; None: the profile's.
        modalities: at least two of the profile `plain`; the other profiles have audio and video.
        shares: fractions of the train, validation and test splits; None: the profile's.
        progress: called after each sample.
    Returns:
        The content of shards.json.
    Raises:
        InputError: an argument is invalid, or `out` is not empty.
        StoreError: `out` cannot be written.
    """
    check_vacant(out)
    require(profile in PROFILES, f"Unknown profile: {profile!r}", one_of(profile, PROFILES))
    chosen = PROFILES[profile]
    samples = chosen.samples if samples is None else samples
    shares = chosen.shares if shares is None else shares
    _check_modalities(profile, chosen, modalities)
    _check(samples, classes, shards, seed, shares)
    return write_shards(
        out,
        _samples(chosen, _outline(samples, classes, shares, seed, modalities)),
        num_samples=samples,
        num_shards=shards,
        decode=DecodeConfig(modalities={name: chosen.specs[name] for name in modalities}),
        origin={
            "source": "generate",
            # without the default, so that shards.json of plain samples remains the same
            **({} if profile == "plain" else {"profile": profile}),
            "samples": samples,
            "classes": classes,
            "seed": seed,
            "modalities": list(modalities),
            "shares": list(shares),
        },
        progress=progress,
    )


def _outline(
    samples: int, classes: int, shares: Shares, seed: int, modalities: Sequence[str]
) -> Outline:
    """Balanced labels, and splits with the same share of each class."""
    digits = max(2, len(str(classes - 1)))
    names = [f"class-{number:0{digits}d}" for number in range(classes)]
    labels = [number % classes for number in range(samples)]
    return Outline(
        class_names=names,
        labels=labels,
        splits=_splits([names[label] for label in labels], shares, seed),
        seed=seed,
        modalities=modalities,
    )


def _samples(profile: Profile, outline: Outline) -> Iterator[NewSample]:
    for number, (metadata, members) in enumerate(profile.draw(outline)):
        key = sample_id(number)
        yield NewSample(
            key=key,
            sample_id=key,
            label=outline.class_names[outline.labels[number]],
            split=outline.splits[number],
            metadata=metadata,
            members=members,
        )


def _check_modalities(name: str, profile: Profile, modalities: Sequence[str]) -> None:
    if name != "plain":
        require(
            list(modalities) == [*profile.specs],
            f"Modalities of profile {name}: {','.join(modalities)}",
            f"This profile has {','.join(profile.specs)}; choose others with profile plain only.",
        )
    for modality in modalities:
        require(
            modality in profile.specs,
            f"Modality cannot be generated: {modality!r}",
            one_of(modality, profile.specs),
        )
    require(
        1 < len(modalities) == len(set(modalities)),
        f"Invalid modalities: {', '.join(modalities) or 'none'}",
        f"Choose at least two different ones of {', '.join(profile.specs)}.",
    )


def _check(samples: int, classes: int, shards: int, seed: int, shares: Shares) -> None:
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


def _splits(labels: Sequence[str], shares: Shares, seed: int) -> list[str]:
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
