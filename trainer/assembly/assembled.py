"""The assembled model of a run: written to a file, loaded, and used for prediction."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.arrays import Array, BoolArray, Float32Array
from pipeline.decode.media.shapes import vocabularies
from pipeline.errors import DataError, InputError
from pipeline.extensions import check_identities
from pipeline.storage.store_path import StorePath
from trainer.assembly.readout import Readout
from trainer.data.inputs import Inputs
from trainer.models import checkpoint as checkpoints
from trainer.models.checkpoint import Checkpoint
from trainer.models.model import FUSED, build_model
from trainer.models.model_config import ModelConfig
from trainer.scoring.outputs import HeadOutputs, head_outputs
from trainer.scoring.predictor import Predictor


def combine(best: Checkpoint, parts: Mapping[str, Checkpoint]) -> Checkpoint:
    """The checkpoint `best` with the encoder and head of each modality from its own part."""
    weights = {**best["model"]}
    for part in parts.values():
        weights |= part["model"]
    # at different epochs a shared head has different weights
    weights = {name: x for name, x in weights.items() if not name.endswith(".projection")}
    architecture = best["architecture"]
    model = {**architecture["model"], "heads": "own"}
    return {**best, "model": weights, "architecture": {**architecture, "model": model}}


def probabilities(readout: Readout, outputs: HeadOutputs) -> dict[str, Float32Array]:
    """Probabilities (n, C) of a readout ("fused") and of the unimodal heads."""
    fused = torch.softmax(readout.logits(outputs), dim=1)
    unimodal = {name: outputs.log_p[name].exp() for name in outputs.features}
    return {name: x.float().numpy() for name, x in {**unimodal, FUSED: fused}.items()}


@dataclass(frozen=True, slots=True)
class AssembledPredictor:
    """Predicts rows of a feature set with a readout; unimodal probabilities are calibrated."""

    predictor: Predictor
    readout: Readout

    @torch.inference_mode()
    def __call__(self, rows: Array) -> dict[str, Array]:
        """Class probabilities of rows (B,): per modality and "fused", (B, C) float32."""
        outputs, present = self.predictor.outputs(rows)
        own = head_outputs(outputs, present, self.readout.temperatures)
        return probabilities(self.readout, own)


class AssembledModel:
    """The model of a run's checkpoints/model.pt, for prediction without the run.

    Example:
        model = remix.load_model("store/runs/first/checkpoints/model.pt")
        p = model.predict({"audio": spectrograms, "video": frames})  # (B, C)
        print([model.classes[k] for k in p.argmax(axis=1)])
    """

    def __init__(self, path: StorePath) -> None:
        state = checkpoints.load(path)
        if state.get("readout") is None:
            raise DataError(
                f"not an assembled model: {path}", "pass checkpoints/model.pt of a finished run"
            )
        architecture = state["architecture"]
        self.classes: list[str] = architecture["classes"]
        self._shapes = {name: tuple(shape) for name, shape in architecture["shapes"].items()}
        self._dtypes = {name: entry["dtype"] for name, entry in architecture["facts"].items()}
        ids = vocabularies(self._shapes, architecture["facts"])
        config = ModelConfig.model_validate(architecture["model"])
        check_identities(str(path), architecture.get("extensions", {}))
        self._model = build_model(
            config, self._shapes, len(self.classes), seed=0, ids=ids, pretrained=False
        ).eval()
        checkpoints.load_weights(path, self._model, state["model"])
        self._inputs = Inputs(architecture, 0, torch.device("cpu"))
        self._readout = Readout.of(state["readout"])

    @property
    def modalities(self) -> list[str]:
        """The modalities that the model was trained on."""
        return [*self._shapes]

    @torch.inference_mode()
    def predict(
        self, inputs: Mapping[str, Array], present: Mapping[str, BoolArray] | None = None
    ) -> Float32Array:
        """Class probabilities (B, C) of B samples.

        Args:
            inputs: By modality, (B, ...) as stored in a feature set (`FeatureSet.read`); without
                the modalities that no sample has.
            present: By modality, (B,): which samples have it; by default all.
        Raises:
            InputError: an array does not have the shape or type of the features.
        """
        num_rows = len(next(iter(inputs.values()), ()))
        for name, values in inputs.items():
            expected = (num_rows, *self._shapes.get(name, ()))
            if name not in self._shapes or values.shape != expected:
                known = ", ".join(f"{key} (B, {str(x)[1:]}" for key, x in self._shapes.items())
                raise InputError(f"input {name!r} is {values.shape}", f"pass {known}")
            if str(values.dtype) != self._dtypes[name]:
                raise InputError(f"input {name!r} is {values.dtype}", f"pass {self._dtypes[name]}")
        raw, has = {}, {}
        for name, shape in self._shapes.items():
            empty = np.zeros((num_rows, *shape), self._dtypes[name])
            raw[name] = torch.from_numpy(inputs.get(name, empty))
            flags = (present or {}).get(name, np.full(num_rows, name in inputs))
            has[name] = torch.from_numpy(flags)
        prepared = self._inputs(raw, np.arange(num_rows), training=False)
        outputs = self._model.predict(prepared, has)
        own = head_outputs(outputs, has, self._readout.temperatures)
        return probabilities(self._readout, own)[FUSED]
