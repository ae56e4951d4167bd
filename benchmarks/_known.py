"""Three generated sets of which it is known, sample by sample, how hard each modality is, and so which one of them ought to be trained.

A row of a modality is its class's prototype plus noise, 48 numbers; the noise's SD is drawn per sample and modality and makes the difficulty.
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
"""SDs of the noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownSet:
    """Rows of each modality (N, WIDTH), labels (N,), splits (N,), and per row the index of the modality that ought to be trained."""

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
    """Of three modalities one is noisy, another in each sample: that one ought to be trained."""
    noisy = rng.integers(3, size=len(labels))
    noise = np.where(noisy[:, None] == np.arange(3), HARD, EASY)
    return _draw(["pulse", "heat", "touch"], 1.5 * noise, rng, labels), noisy


def _hollow(
    rng: np.random.Generator, labels: Array, train: Array
) -> tuple[dict[str, Array], Array]:
    """The second modality is weak, and in six of ten samples it carries nothing and looks hard for ever: there the first ought to be trained."""
    empty = rng.random(len(labels)) < 0.6
    signal = np.stack([np.ones(len(labels)), ~empty], axis=1)
    noise = np.tile([3.0, 4.0], (len(labels), 1))
    return _draw(["pulse", "heat"], noise, rng, labels, signal), (~empty).astype(np.int64)


def _leaky(rng: np.random.Generator, labels: Array, train: Array) -> tuple[dict[str, Array], Array]:
    """One of two modalities is noisy, as in `crossed`, but of the first the training set has one row to six samples, which is soon known by heart."""
    noisy = rng.integers(2, size=len(labels))
    source = np.arange(len(labels))
    for label in range(NUM_CLASSES):
        for side in range(2):
            alike = np.flatnonzero(train & (labels == label) & (noisy == side))
            source[alike] = alike[np.arange(len(alike)) // 6 * 6]
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
    """One of the sets, the same at every call."""
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
    """A set as shards; sample 17 is `known-0017`."""
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
