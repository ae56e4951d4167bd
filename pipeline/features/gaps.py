"""What a feature set lacks that training needs."""

from collections.abc import Sequence

import numpy as np

from pipeline.arrays import Array
from pipeline.features.feature_set import FeatureSet
from pipeline.storage.schemas import SPLITS


class Coverage:
    """Numbers of rows by split and modality, and by class; blocks of rows are added.

    Args:
        modalities: names of the modalities.
        classes: names of the classes.
    """

    def __init__(self, modalities: Sequence[str], classes: Sequence[str]) -> None:
        self._modalities, self._classes = modalities, classes
        self._rows = np.zeros(len(SPLITS), np.int64)
        self._present = np.zeros((len(SPLITS), len(modalities)), np.int64)
        self._trained, self._all = np.zeros((2, len(classes)), np.int64)

    def add(self, split: str, labels: Array, has: Array) -> None:
        """Add rows of a split: labels (N,), and whether they have each modality, (N, K) bool."""
        counts = np.bincount(labels, minlength=len(self._classes))
        self._all += counts
        if split == "train":
            self._trained += counts
        self._rows[SPLITS.index(split)] += len(labels)
        self._present[SPLITS.index(split)] += has.sum(0)

    def gaps(self) -> list[str]:
        """Modalities that a split lacks, and classes that training never sees, as sentences."""
        sentences = []
        for name, present in zip(self._modalities, self._present.T, strict=True):
            empty = [
                split
                for split, num_rows, num in zip(SPLITS, self._rows, present, strict=True)
                if num_rows and not num
            ]
            if "train" in empty:
                sentences.append(f"training never sees modality {name!r}: no train sample has it")
            elif empty:
                sentences.append(f"no sample of {' or '.join(empty)} has modality {name!r}")
        unseen = np.flatnonzero((self._all > 0) & (self._trained == 0)).tolist()
        return sentences + [
            f"training never sees class {self._classes[number]!r},"
            f" which {self._all[number]} other samples have"
            for number in unseen
        ]


def gaps(features: FeatureSet) -> list[str]:
    """Modalities that a split lacks, and classes that training never sees, as sentences."""
    coverage = Coverage(features.modalities, features.classes)
    for split in SPLITS:
        rows = features.rows_of(split)
        coverage.add(split, features.labels[rows], features.has[rows])
    return coverage.gaps()
