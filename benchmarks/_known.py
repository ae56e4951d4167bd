"""Three generated data sets whose ideal assignment of samples to modalities is known.

The features of a modality are the prototype of the class plus Gaussian noise, 48 numbers. The
standard deviation of the noise depends on sample and modality and determines the difficulty.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _report  # noqa: F401, before pipeline
import numpy as np
import numpy.typing as npt

from pipeline.config import parse
from pipeline.decode.config import DecodeConfig
from pipeline.sources.shard_writer import NewSample, write_shards

Array = npt.NDArray[Any]
NUM_CLASSES, WIDTH = 6, 48
NUM_ROWS = {"train": 900, "validation": 400, "test": 1200}
EASY, HARD = 3.0, 7.0
"""Standard deviations of the noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownSet:
    """A generated data set.

    rows: by modality, (N, WIDTH); labels, splits: (N,); ideal: (N,), the index of the modality
    that each sample should train.
    """

    rows: dict[str, Array]
    labels: Array
    splits: Array
    ideal: Array


def _draw(
    names: list[str],
    noise: Array,
    rng: np.random.Generator,
    labels: Array,
    signal: Array | None = None,
) -> dict[str, Array]:
    prototypes = rng.normal(size=(len(names), NUM_CLASSES, WIDTH))
    signal = np.ones_like(noise) if signal is None else signal
    return {
        name: prototypes[k, labels] * signal[:, k, None]
        + noise[:, k, None] * rng.normal(size=(len(labels), WIDTH))
        for k, name in enumerate(names)
    }


def _crossed(
    rng: np.random.Generator, labels: Array, train: Array
) -> tuple[dict[str, Array], Array]:
    """One of three modalities is noisy, which one depends on the sample; it should be trained."""
    noisy = rng.integers(3, size=len(labels))
    noise = np.where(noisy[:, None] == np.arange(3), HARD, EASY)
    return _draw(["pulse", "heat", "touch"], 1.5 * noise, rng, labels), noisy


def _hollow(
    rng: np.random.Generator, labels: Array, train: Array
) -> tuple[dict[str, Array], Array]:
    """The second modality is weak, and without any signal in 60% of the samples.

    Those stay difficult forever; they should train the first modality.
    """
    empty = rng.random(len(labels)) < 0.6
    signal = np.stack([np.ones(len(labels)), ~empty], axis=1)
    noise = np.tile([3.0, 4.0], (len(labels), 1))
    return _draw(["pulse", "heat"], noise, rng, labels, signal), (~empty).astype(np.int64)


def _leaky(rng: np.random.Generator, labels: Array, train: Array) -> tuple[dict[str, Array], Array]:
    """One of two modalities is noisy, as in `crossed`, but the first one is easily overfitted.

    Six training samples share one row of it.
    """
    noisy = rng.integers(2, size=len(labels))
    source = np.arange(len(labels))
    for label in range(NUM_CLASSES):
        for side in range(2):
            group = np.flatnonzero(train & (labels == label) & (noisy == side))
            source[group] = group[np.arange(len(group)) // 6 * 6]
    rows = _draw(
        ["pulse", "heat"], np.where(noisy[:, None] == np.arange(2), HARD, EASY), rng, labels
    )
    return {
        **rows,
        "pulse": rows["pulse"][source] + 0.1 * rng.normal(size=(len(labels), WIDTH)),
    }, noisy


_KINDS: dict[str, Callable[[np.random.Generator, Array, Array], tuple[dict[str, Array], Array]]] = {
    "crossed": _crossed,
    "hollow": _hollow,
    "leaky": _leaky,
}
KNOWN = tuple(_KINDS)


def known_set(name: str) -> KnownSet:
    """Generate one of the data sets; deterministic."""
    rng = np.random.default_rng([KNOWN.index(name), 2506, 11550])
    splits = np.repeat(list(NUM_ROWS), list(NUM_ROWS.values()))
    labels = rng.permutation(np.arange(len(splits)) % NUM_CLASSES)
    rows, ideal = _KINDS[name](rng, labels, splits == "train")
    return KnownSet(
        rows={key: value.astype(np.float32) for key, value in rows.items()},
        labels=labels,
        splits=splits,
        ideal=ideal,
    )


def write_known(name: str, out: Path) -> None:
    """Write a data set as shards. The id of sample 17 is `known-0017`."""
    known = known_set(name)
    specs = {
        key: {"kind": "tensor", "member": f"{key}.npy", "shape": [WIDTH]} for key in known.rows
    }
    decode = parse(DecodeConfig, {"modalities": specs}, name)
    num = len(known.labels)
    write_shards(
        out,
        _samples(known),
        num_samples=num,
        num_shards=2,
        decode=decode,
        origin={"source": f"known {name}"},
    )


def _samples(known: KnownSet) -> Iterator[NewSample]:
    for i, (label, split) in enumerate(
        zip(known.labels.tolist(), known.splits.tolist(), strict=True)
    ):
        members = {}
        for key, rows in known.rows.items():
            buffer = io.BytesIO()
            np.save(buffer, rows[i])
            members[f"{key}.npy"] = buffer.getvalue()
        key = f"known-{i:04d}"
        yield NewSample(
            key=key,
            sample_id=key,
            label=f"class-{label}",
            split=split,
            metadata={},
            members=members,
        )
