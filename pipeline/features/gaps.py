"""What a feature set lacks that training needs."""

import numpy as np

from pipeline.features.feature_set import FeatureSet
from pipeline.storage.schemas import SPLITS


def gaps(features: FeatureSet) -> list[str]:
    """Modalities that a split lacks, and classes that training never sees, as sentences."""
    found = []
    rows = {split: features.rows_of(split) for split in SPLITS}
    for k, name in enumerate(features.modalities):
        empty = [
            split for split, own in rows.items() if len(own) and not features.has[own, k].any()
        ]
        if "train" in empty:
            found.append(f"training never sees modality {name!r}: no train sample has it")
        elif empty:
            found.append(f"no sample of {' or '.join(empty)} has modality {name!r}")
    seen = np.unique(features.labels[rows["train"]])
    for number, num in zip(*np.unique(features.labels, return_counts=True), strict=True):
        if number not in seen:
            name = features.classes[number]
            found.append(f"training never sees class {name!r}, which {num} other samples have")
    return found
