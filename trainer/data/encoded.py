"""Features of frozen encoders, computed once and read in place of the rows that they encode.

They are in <store>/encoded/<key>, in parts like those of the feature set. The key is a hash of what
decides them, so that runs share them. Deleting them costs only time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from pipeline.arrays import Array
from pipeline.features.feature_set import FeatureSet
from pipeline.features.part_writer import PartWriter, part_name
from pipeline.storage.metadata import fingerprint_of
from pipeline.storage.node_cache import RemoteFile
from pipeline.storage.store_path import StorePath
from trainer.config import RunConfig
from trainer.data.augment import is_augmented
from trainer.data.inputs import Inputs
from trainer.models.encoder import Encoder
from trainer.models.midfusion import MidFusion
from trainer.models.model import MultimodalModel
from trainer.models.model_config import ModelConfig
from trainer.process_group import World


class EncodedFeatures(FeatureSet):
    """A feature set whose rows of some modalities are read as features (D,) of their encoders."""

    def __init__(self, source: FeatureSet, tables: Mapping[str, FeatureSet]) -> None:
        super().__init__(source.path, source.manifest, source.cache)
        self.source, self._tables = source, tables
        self.encoded = frozenset(tables)

    def __reduce__(self) -> tuple[Any, ...]:
        return EncodedFeatures, (self.source, self._tables)

    def read(self, modality: str, rows: Array | Sequence[int], out: Array | None = None) -> Array:
        return self._table(modality).read(modality, rows, out)

    def file_of(self, modality: str, part: int) -> RemoteFile:
        return self._table(modality).file_of(modality, part)

    def fetch(self, modality: str, part: int) -> bool:
        # features are small, and read from the store in ranges
        return modality in self._tables or self.source.fetch(modality, part)

    def _table(self, modality: str) -> FeatureSet:
        return self._tables.get(modality, self.source)


def encode_frozen(
    model: MultimodalModel,
    architecture: Mapping[str, Any],
    config: RunConfig,
    features: FeatureSet,
    world: World,
) -> FeatureSet:
    """Compute the features of the frozen encoders whose input is the same in every epoch.

    Every rank writes its share of the parts that do not exist yet. With a mid-fusion, or mask
    `input`, an encoder's output depends on more than its row, and the features are returned as they
    are.

    Args:
        model: on the device of the world.
        architecture: of the model.
    """
    frozen = [
        name
        for name in features.modalities
        if model.encoder(name).frozen
        and not is_augmented(
            config.model.encoder_of(name, features.shape(name)),
            features.shape(name),
            str(features.dtype(name)),
        )
    ]
    if not frozen or isinstance(model.fusion, MidFusion) or model.mask == "input":
        return features
    inputs = Inputs(architecture, config.seed, world.device)
    tables = {}
    for name in frozen:
        encoding = _Encoding(name, model.encoder(name), inputs, features, config, world)
        table = encoding.table(StorePath.at(config.store) / "encoded", architecture)
        for part in range(world.rank, len(table.manifest["parts"]), world.size):
            encoding.write(table, part)
        tables[name] = table
    world.gather(None)  # barrier: the other ranks have written their parts
    return EncodedFeatures(features, tables)


@dataclass(frozen=True, slots=True)
class _Encoding:
    """The encoder of a modality, and the rows that it encodes."""

    name: str
    encoder: Encoder
    inputs: Inputs
    features: FeatureSet
    config: RunConfig
    world: World

    def table(self, folder: StorePath, architecture: Mapping[str, Any]) -> FeatureSet:
        """The table of the encoder's features, whose parts may not exist yet."""
        config, manifest = self.config, self.features.manifest
        model = ModelConfig.model_validate(architecture["model"])
        own = model.encoder_of(self.name, self.features.shape(self.name))
        content = sha256()
        for key, weights in self.encoder.state_dict().items():
            content.update(f"{key} {weights.dtype} {tuple(weights.shape)}".encode())
            content.update(weights.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        key = fingerprint_of(
            [
                self.features.fingerprint,
                self.name,
                content.hexdigest(),
                own.model_dump(mode="json", exclude={"pretrained", "lr_scale"}),
                architecture.get("extensions"),
                [torch.__version__, self.world.device.type, config.train.amp],
            ]
        )
        described = {"shape": [self.encoder.channels[-1]], "dtype": "float32"}
        parts = [{"index": part["index"], "rows": part["rows"]} for part in manifest["parts"]]
        changes = {"modalities": {self.name: described}, "parts": parts, "fingerprint": key}
        return FeatureSet(folder / key[:32], {**manifest, **changes})

    @torch.inference_mode()
    def write(self, table: FeatureSet, part: int) -> None:
        """Write a part, unless it exists; a part that is interrupted does not."""
        parts = table.manifest["parts"]
        path = table.path / self.name / part_name(parts[part]["index"])
        if path.exists():
            return
        first = sum(entry["rows"] for entry in parts[:part])
        has = self.features.has[:, self.features.modalities.index(self.name)]
        shape, size = table.shape(self.name), self.config.train.score_batch
        self.encoder.eval()
        with path.create() as file:
            writer = PartWriter(file, shape, "float32", table.manifest["batch_rows"])
            end = first + parts[part]["rows"]
            for start in range(first, end, size):
                rows = np.arange(start, min(start + size, end))
                raw = torch.from_numpy(self.features.read(self.name, rows))
                x = self.inputs({self.name: raw}, rows, training=False)[self.name]
                amp = self.config.train.amp == "bf16"
                with torch.autocast(self.world.device.type, torch.bfloat16, enabled=amp):
                    encoded = self.encoder(x).float().cpu().numpy()
                for row, values in zip(rows.tolist(), encoded, strict=True):
                    writer.append(values if has[row] else None)
            writer.close()
