"""A feature set as a dataset of PyTorch."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from pipeline.errors import InputError
from pipeline.storage.schemas import ALL

if TYPE_CHECKING:
    from pipeline.features.feature_set import FeatureSet

OTHER_KEYS = {"label", "row", "sample_id", "modality"}


class FeatureDataset(Dataset[dict[str, Any]]):
    """The rows of a feature set as dictionaries; see FeatureSet.as_dataset."""

    def __init__(self, features: "FeatureSet") -> None:
        if taken := OTHER_KEYS.intersection(features.modalities):
            raise InputError(
                f"modality {min(taken)!r} has the name of another entry of an item",
                "decode it under another name",
            )
        self.features = features

    def __len__(self) -> int:
        return self.features.num_rows

    def __getitem__(self, item: int | tuple[int, str]) -> dict[str, Any]:
        row, trained = item if isinstance(item, tuple) else (item, ALL)
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is not one of the {len(self)} rows")
        features = self.features
        if trained not in (ALL, *features.modalities):
            raise InputError(
                f"the features have no modality {trained!r}: {', '.join(features.modalities)}",
                "use a plan that was made from these features",
            )
        tensors = {
            name: torch.from_numpy(features.read(name, [row])[0])
            if trained in (name, ALL)
            else torch.from_numpy(np.zeros(features.shape(name), features.dtype(name)))
            for name in features.modalities
        }
        return {
            **tensors,
            "label": int(features.labels[row]),
            "row": row,
            "sample_id": features.samples["sample_id"][row].as_py(),
            **({"modality": trained} if isinstance(item, tuple) else {}),
        }
