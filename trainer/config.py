"""What a run was asked to do (one YAML file), apart from the circumstances under which it is done (`resources`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import ByteSize, Field, model_validator

from pipeline.config import Name, StrictModel, load
from pipeline.decode.config import DecodeConfig
from pipeline.errors import ConfigError
from pipeline.plans.config import PlanConfig
from pipeline.storage.metadata import fingerprint_of
from pipeline.storage.store_path import StorePath
from trainer.models.model import ModelConfig


class OptimizerConfig(StrictModel):
    """The optimizer and its learning rate, which falls by `decay` every `decay_every` epochs."""

    kind: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    decay_every: int = Field(default=30, ge=1)
    decay: float = Field(default=0.1, gt=0, le=1)
    clip_norm: float | None = Field(default=None, gt=0)

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch."""
        return float(self.lr * self.decay ** (epoch // self.decay_every))


class TrainConfig(StrictModel):
    """The loop: `warmup_epochs` of joint plans, then score, plan, train; batches are global, over all workers."""

    epochs: int = Field(default=30, ge=1)
    warmup_epochs: int = Field(default=10, ge=0)
    batch_size: int = Field(default=64, ge=1)
    rescore_every: int = Field(default=1, ge=1)
    score_batch: int = Field(default=64, ge=1)
    """Rows a forward pass of scoring; fixed, so that scores do not depend on the number of workers."""
    warmup_weight: float = Field(default=0.5, ge=0)
    """w_k: the weight of each unimodal loss in warm-up."""
    remix_weight: float = Field(default=1.0, ge=0)
    """gamma_k: the weight of the unimodal loss on a modality-pure batch."""
    strategy: Name = "remix"
    """What a step does, one of trainer/strategies/; the methods of `remix compare` set it."""
    ogm_alpha: float = Field(default=0.8, ge=0)
    """How much the strategy ogm_ge holds the stronger modality back; 0.8 as its authors recommend for CREMA-D."""
    scores: Literal["live", "cross_fitted"] = "live"
    """live: by the unimodal heads; cross_fitted: by heads that are fitted anew to the encoders' features, each row by one that has not seen it."""
    diagnostics: bool = False
    """Whether each epoch ends with gradients compared and modalities masked, which costs about two validations."""
    amp: Literal["off", "bf16"] = "off"
    compile: bool = False
    sync_batchnorm: bool = False


class ResourcesConfig(StrictModel):
    """Circumstances: they may change between a run and its resumption."""

    workers: int = Field(default=0, ge=0)
    """0: this process alone, without Ray; N: N workers of Ray Train."""
    use_gpu: bool | Literal["auto"] = "auto"
    cpus_per_worker: float = Field(default=1, gt=0)
    """Also the threads of torch in training on CPUs, since the weights depend on them in the last bits."""
    max_failures: int = Field(default=3, ge=-1)
    checkpoint_every: int = Field(default=500, ge=1)
    """Steps between checkpoints within an epoch; the end of an epoch is always one."""
    prefetch: int = Field(default=3, ge=1)
    """Batches prepared ahead of the step."""
    worker_resources: dict[Name, float] = Field(default={})
    """What else a node must offer for each worker, by the names that it was started with (`ray start --resources`)."""
    decode_resources: dict[Name, float] = Field(default={})
    """The same for each task that decodes a shard of `source`."""
    cache_dir: str | None = None
    """Where a node keeps copies of a remote store's parts; null: a folder `remix-cache` among its temporary files."""
    cache_size: ByteSize = ByteSize(20 * 2**30)
    """How many bytes all copies on a node may take together."""


class GenerateConfig(StrictModel):
    """Generated samples, as `remix generate` makes them, in <store>/shards/<features>."""

    samples: int = Field(default=480, ge=1)
    classes: int = Field(default=6, ge=2)
    shards: int = Field(default=4, ge=1)
    seed: int = Field(default=0, ge=0)
    modalities: tuple[Name, ...] = ("audio", "video")


class SourceConfig(StrictModel):
    """What the features are made from where they are not there yet: either generated samples or shards."""

    generate: GenerateConfig | None = None
    shards: tuple[str, ...] = ()
    """Shards, folders of them or globs; places without a scheme that do not begin with / lie below the store."""
    decode: DecodeConfig | None = None
    """As for `remix decode`; null: decode.yaml beside the shards, else inferred."""

    @model_validator(mode="after")
    def _is_one(self) -> "SourceConfig":
        if bool(self.generate) == bool(self.shards):
            raise ValueError("give either `generate` or `shards`")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "model": {
            "fusion": "concat",
            "encoder": {
                "kind": "resnet18",
                "crop": True,
                "flip": True,
                "frames": 2,
                "normalize": "imagenet",
            },
        },
        "optimizer": {
            "kind": "adam",
            "lr": 5e-5,
            "weight_decay": 1e-4,
            "decay_every": 30,
            "decay": 0.1,
        },
        "train": {"epochs": 60, "warmup_epochs": 10, "batch_size": 64},
    },
    "small": {
        "model": {"fusion": "concat", "encoder": {"kind": "cnn"}},
        "optimizer": {
            "kind": "adam",
            "lr": 1e-3,
            "weight_decay": 1e-4,
            "decay_every": 20,
            "decay": 0.1,
        },
        "train": {"epochs": 30, "warmup_epochs": 10, "batch_size": 64},
    },
}


CIRCUMSTANCES = {"name", "preset", "store", "source", "resources"}
"""Fields of a run that do not decide its result; what a preset fills in stands in the others."""


class RunConfig(StrictModel):
    """A run: its name, its data, its model, its plans and its loop."""

    name: Name
    features: Name
    store: str = "store"
    preset: Literal["paper", "small"] = "small"
    seed: int = Field(default=0, ge=0, lt=2**31)
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    plan: PlanConfig = PlanConfig()
    source: SourceConfig | None = None
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return merge(PRESETS.get(str(value.get("preset", "small")), {}), value)

    @property
    def digest(self) -> str:
        """The hash of what decides the result, together with the features; without values equal to their defaults, so that a new field changes no digest."""
        return fingerprint_of(
            self.model_dump(mode="json", exclude=CIRCUMSTANCES, exclude_defaults=True)
        )

    def differences(self, other: "RunConfig") -> list[str]:
        """The paths of the fields that decide the result and have another value in `other`."""
        own, others = (
            each.model_dump(mode="json", exclude=CIRCUMSTANCES) for each in (self, other)
        )
        return list(_differing(own, others))

    @property
    def features_path(self) -> StorePath:
        """<store>/features/<features>"""
        return StorePath.at(self.store) / "features" / self.features

    @property
    def run_path(self) -> StorePath:
        """<store>/runs/<name>"""
        return StorePath.at(self.store) / "runs" / self.name


def check_world(config: RunConfig) -> None:
    """Raises ConfigError where a global batch has fewer rows than there are workers."""
    workers = max(config.resources.workers, 1)
    if config.train.batch_size < workers:
        raise ConfigError(
            f"batch_size {config.train.batch_size} is smaller than the world size {workers}",
            f"set train.batch_size to {workers} or more",
        )


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The nested mapping `base` with the values of `over` in place of its own."""
    merged = dict(base)
    for key, value in over.items():
        merged[key] = (
            merge(merged[key], value)
            if isinstance(value, dict) and isinstance(merged.get(key), dict)
            else value
        )
    return merged


def _differing(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    for key in {**first, **second}:
        a, b = first.get(key), second.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from (f"{key}.{path}" for path in _differing(a, b))
        elif a != b:
            yield key


def load_run(path: str | Path) -> RunConfig:
    """Reads a run's YAML file (raises ConfigError, MissingError)."""
    return load(RunConfig, path)
