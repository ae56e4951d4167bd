"""Outputs of all heads and encoders for the rows of a split, collected from all ranks."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.arrays import BoolArray, Int64Array
from pipeline.counter_rng import Purpose, hashes, key_of
from pipeline.features.feature_set import FeatureSet
from trainer.config import RunConfig
from trainer.models.model import FUSED, MultimodalModel, Outputs
from trainer.process_group import World
from trainer.run_directory import Run
from trainer.scoring.predictor import Predictor

MAX_BYTES = 2**28
"""Maximum memory of the outputs that are collected. Of a larger split, a random sample is used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadOutputs:
    """Outputs of a model for n rows, float64 on the CPU."""

    present: dict[str, Tensor]  # (n,) bool by modality
    log_p: dict[str, Tensor]  # (n, C) by head: the modalities and "fused"
    features: dict[str, Tensor]  # (n, D_k) by modality, undefined where it is missing

    def take(self, index: Tensor) -> "HeadOutputs":
        """Some of the rows."""
        parts = (self.present, self.log_p, self.features)
        present, log_p, features = ({name: x[index] for name, x in part.items()} for part in parts)
        return HeadOutputs(present=present, log_p=log_p, features=features)

    def visible(self, head: str) -> Tensor:
        """log p of a head (n, C), zero for rows without the modality."""
        present = self.present.get(head)
        log_p = self.log_p[head]
        return log_p if present is None else torch.where(present[:, None], log_p, 0.0)

    def standardised(self, name: str, mean: Tensor, scale: Tensor) -> Tensor:
        """Standardised features (n, D_k) of a modality, zero where it is missing."""
        x = (self.features[name] - mean) * scale
        return torch.where(self.present[name][:, None], x, 0.0)


def head_outputs(
    outputs: Outputs, present: Mapping[str, Tensor], temperatures: Mapping[str, float]
) -> HeadOutputs:
    """Convert outputs of `predict` to what readouts use; temperatures are 1 if absent."""
    logits = {**outputs.unimodal, FUSED: outputs.fused}
    return HeadOutputs(
        present={name: x.cpu() for name, x in present.items()},
        log_p={
            name: F.log_softmax(x.double().cpu() / temperatures.get(name, 1.0), dim=1)
            for name, x in logits.items()
        },
        features={name: x.double().cpu() for name, x in outputs.features.items()},
    )


class Collector:
    """Collects a model's outputs for rows, or for a sample of them, on rank 0."""

    def __init__(self, config: RunConfig, run: Run, features: FeatureSet, world: World) -> None:
        self._config, self._run, self._features, self._world = config, run, features, world
        self._tables: list[pa.Table] = []

    def collect(
        self, split: str, predictor: Predictor, temperatures: Mapping[str, float] | None = None
    ) -> tuple[Int64Array, HeadOutputs | None]:
        """Rows (n,) of a split, ascending, and their outputs, None on other ranks than 0."""
        rows = self.sample(self._features.rows_of(split), predictor.model)
        size = self._config.train.score_batch
        for batch, outputs, present in predictor.outputs_of(rows, size, self._world):
            self.add(batch, outputs, present, temperatures)
        return rows, self.joined(rows, predictor.model)

    def sample(self, rows: Int64Array, model: MultimodalModel) -> Int64Array:
        """At most as many of the rows as MAX_BYTES allows, ascending."""
        key = key_of(self._config.seed, Purpose.ASSEMBLY)
        order = np.argsort(hashes(key, rows), kind="stable")
        return np.sort(rows[order[: MAX_BYTES // (8 * sum(self._sizes(model)))]])

    def add(
        self,
        rows: Int64Array,
        outputs: Outputs,
        present: Mapping[str, Tensor],
        temperatures: Mapping[str, float] | None = None,
        keep: BoolArray | None = None,
    ) -> None:
        """Add the outputs of rows (B,), or of those for which `keep` (B,) is true."""
        own = head_outputs(outputs, present, temperatures or {})
        parts = [own.log_p[name] for name in [*own.features, FUSED]] + [*own.features.values()]
        values = torch.cat(parts, dim=1).float()
        flat = pa.array(values.flatten().numpy())
        lists = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        table = pa.table({"row": rows, "values": lists})
        self._tables.append(table if keep is None else table.filter(keep))

    def joined(self, rows: Int64Array, model: MultimodalModel) -> HeadOutputs | None:
        """The outputs of rows (n,), which all ranks together have added; None on other ranks."""
        joined = self._world.join_rows(self._run.parts("outputs"), self._tables)
        self._tables = []
        if joined is None:
            return None
        values = torch.from_numpy(joined["values"].combine_chunks().flatten().to_numpy().copy())
        parts = torch.split(values.view(len(rows), -1).double(), self._sizes(model), dim=1)
        names, present = model.modalities, torch.from_numpy(self._features.has[rows])
        return HeadOutputs(
            present={name: present[:, k] for k, name in enumerate(names)},
            log_p=dict(zip([*names, FUSED], parts, strict=False)),
            features=dict(zip(names, parts[len(names) + 1 :], strict=True)),
        )

    def _sizes(self, model: MultimodalModel) -> list[int]:
        heads = [len(self._features.classes)] * (len(model.modalities) + 1)
        return heads + [model.head(name).in_features for name in model.modalities]
