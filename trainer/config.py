"""Configuration of a run (one YAML file)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ByteSize, ConfigDict, Field, model_validator

from pipeline.config import Name, StrictModel, load
from pipeline.decode.config import DecodeConfig
from pipeline.errors import ConfigError
from pipeline.extensions import Identity, check_name, identities, is_import_path
from pipeline.plans.config import PlanConfig
from pipeline.storage.metadata import fingerprint_of
from pipeline.storage.store_path import StorePath
from trainer.config_values import differing, merge, nested
from trainer.methods import METHODS
from trainer.models.model_config import ModelConfig
from trainer.optimizer_config import OptimizerConfig


class SelectConfig(StrictModel):
    """The epoch whose model is tested: the best one by a metric of the validation split."""

    model_config = ConfigDict(serialize_by_alias=True)

    metric: Literal["loss", "accuracy", "macro_f1"] = "loss"
    """Metric of the fused head: loss, the cross-entropy after calibration by a temperature, which
    is less noisy than accuracy, the choice of most papers; macro_f1 if classes are imbalanced."""
    since: Literal["warmup", "start"] = Field(default="warmup", alias="from")
    """First epoch that can be chosen: the one after the warm-up, for every method alike, or the
    start of training, as in the paper's public code."""


class BudgetConfig(StrictModel):
    """What training may spend, if it is to end before train.epochs.

    The last epoch then trains a random part of the rows, so that the budget is met."""

    flops: float | None = Field(default=None, gt=0)
    """Floating-point operations of training steps, scoring and validation; null: no limit."""
    seconds: float | None = Field(default=None, gt=0)
    """Wall time of training, scoring, planning and validation; null: no limit. Two runs with such
    a budget differ, since their times do."""

    @model_validator(mode="after")
    def _is_one(self) -> "BudgetConfig":
        if self.flops is not None and self.seconds is not None:
            raise ValueError("set at most one of `flops` and `seconds`")
        return self

    @property
    def is_set(self) -> bool:
        """Whether training may end before train.epochs."""
        return self.flops is not None or self.seconds is not None


class TrainConfig(StrictModel):
    """The training loop: joint warm-up epochs, then epochs that follow a plan made from scores."""

    epochs: int = Field(default=30, ge=1)
    """Number of epochs, including warm-up."""
    warmup_epochs: int = Field(default=10, ge=0)
    """Epochs of joint training before the first remixed epoch."""
    batch_size: int = Field(default=64, ge=1)
    """Rows per global batch, over all workers."""
    accumulate: int = Field(default=1, ge=1)
    """Steps of a plan per update of the weights, whose gradients are added up: n steps of b rows
    train as one of n * b rows. The last update of an epoch may have fewer."""
    rescore_every: int = Field(default=1, ge=1)
    """Score the training rows every this many epochs. Raise it if scoring takes too long."""
    rescore_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the training rows that such an epoch scores; the others keep their last scores. With
    1/3, each row is scored once in three such epochs, at a random one. The first one scores all."""
    score_batch: int = Field(default=64, ge=1)
    """Rows per forward pass of scoring and validation. Lower it if memory runs out.

    It is separate from batch_size so that scores do not depend on the number of workers."""
    warmup_weight: float = Field(default=0.5, ge=0)
    """Weight w_k of each unimodal loss in joint batches."""
    remix_weight: float = Field(default=1.0, ge=0)
    """Weight gamma_k of the unimodal loss in modality-pure batches."""
    strategy: Annotated[str, AfterValidator(lambda name: check_name(name, ()))] | None = None
    """Import path, "package.module:name", of an own training step, a subclass of TrainStep; null:
    the step of the method."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target probability that the losses spread evenly over all classes."""
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Weights of the rows in the losses, by class name, 1 for others; balanced: inversely
    proportional to the number of training rows of the class, 1 on average. The sum of the weighted
    losses is divided by the number of rows. Validation and test are not weighted."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay, per update, of an exponential moving average of the weights, such as 0.999. Scoring,
    validation, test and the written models use the average; null: the weights themselves."""
    ogm_alpha: float = Field(default=0.8, ge=0)
    """Modulation strength of ogm_ge; its authors recommend 0.8 for CREMA-D."""
    budget: BudgetConfig = BudgetConfig()
    """What training may spend; `epochs` is then the maximum."""
    refit_fusion: bool = False
    """Train the fusion for a pass on the features of each scoring, with all modalities. Use it if
    the fused head of a remixed run is worse than its unimodal heads."""
    select: SelectConfig = SelectConfig()
    """The epoch whose model is tested."""
    patience: int | None = Field(default=None, ge=1)
    """End the run after this many epochs without a better value of `select.metric`; null: never.
    The epochs in which handover trains single modalities do not count, and auto ends no race."""
    auroc: bool = False
    """Also measure the area under the ROC curve on the test split, one class versus the rest,
    averaged over classes."""
    assemble: bool = True
    """After training, combine each modality's encoder and head from its own best epoch, test that
    model too, and write it to checkpoints/model.pt. Predicts the training rows once, at most
    256 MiB of their outputs, the validation rows twice, and the test rows once more."""
    diagnostics: bool = False
    """Measure gradient cosines and single-modality accuracy after each epoch.

    Costs about as much as two validations."""
    amp: Literal["off", "bf16"] = "off"
    """Mixed precision: bf16 is faster on GPUs that support it."""
    compile: bool = False
    """Compile the encoders with torch.compile: slower to start, faster per step."""
    sync_batchnorm: bool = False
    """Compute BatchNorm statistics over all workers. Needs GPUs."""


class ResourcesConfig(StrictModel):
    """Where and with what a run is trained. These fields may change when a run is resumed."""

    workers: int = Field(default=0, ge=0)
    """Number of Ray Train workers; 0: train in this process, without Ray."""
    use_gpu: bool | Literal["auto"] = "auto"
    """Give each worker a GPU; auto: if enough GPUs are available."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs reserved per worker, and torch threads if trained on CPUs.

    The last bits of the weights depend on the number of threads, so keep it for exact repeats."""
    max_failures: int = Field(default=3, ge=-1)
    """Restarts after a worker failure before the run fails; -1: no limit."""
    checkpoint_every: int = Field(default=500, ge=1)
    """Steps between checkpoints within an epoch. Each epoch also ends with a checkpoint."""
    prefetch: int = Field(default=3, ge=1)
    """Batches loaded ahead of the current step."""
    worker_resources: dict[Name, float] = Field(default={})
    """Custom Ray resources required per worker (see `ray start --resources`)."""
    decode_resources: dict[Name, float] = Field(default={})
    """Custom Ray resources required per task that decodes a shard of `source`."""
    cache_dir: str | None = None
    """Folder for local copies of a remote store's parts; null: `remix-cache` in the system's
    temporary folder."""
    cache_size: ByteSize = ByteSize(20 * 2**30)
    """Maximum total size of the local copies on a node, in bytes or as "20 GiB"."""


class GenerateConfig(StrictModel):
    """Synthetic samples, as written by `remix generate`, stored in <store>/shards/<features>."""

    profile: Literal["plain", "slow", "crossed", "hollow", "leaky"] = "plain"
    """Content of the samples: plain, or a data set built so that methods differ on it."""
    samples: int | None = Field(default=None, ge=1)
    """Number of samples; null: 480 for plain, 2,000 for other profiles."""
    classes: int = Field(default=6, ge=2)
    """Number of classes."""
    shards: int = Field(default=4, ge=1)
    """Number of shards."""
    seed: int = Field(default=0, ge=0)
    """Seed of the generator."""
    modalities: tuple[Name, ...] = ("audio", "video")
    """Two or more of audio, video, image, tensor and text; for plain only."""


class SourceConfig(StrictModel):
    """Source of the features if they do not exist yet: generated samples or shards, not both."""

    generate: GenerateConfig | None = None
    """Generate synthetic samples."""
    shards: tuple[str, ...] = ()
    """Shards, folders of shards, or globs. Relative paths start at the store."""
    decode: DecodeConfig | None = None
    """As for `remix decode`; null: decode.yaml next to the shards, else inferred."""

    @model_validator(mode="after")
    def _is_one(self) -> "SourceConfig":
        if bool(self.generate) == bool(self.shards):
            raise ValueError("set exactly one of `generate` and `shards`")
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
        "train": {
            "epochs": 60,
            "warmup_epochs": 10,
            "batch_size": 64,
            "select": {"metric": "accuracy", "from": "start"},
        },
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


def _known_method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"unknown method; choose from {', '.join(METHODS)}")
    return name


# a preset's values are in the other fields by the time the digest is computed
NOT_IN_DIGEST = {"name", "preset", "store", "source", "resources", "loggers"}
"""Fields of a run that do not change its result."""


class RunConfig(StrictModel):
    """A run: its name, data, model, plans and training loop."""

    name: Name
    """Name of the run: letters, digits, _ and -, at most 64."""
    features: Name
    """Name of the feature set in <store>/features."""
    store: str = "store"
    """Folder or pyarrow.fs URI that holds features and runs."""
    preset: Literal["paper", "small"] = "small"
    """Defaults of model, optimizer and train: paper, ResNet-18 as in arXiv 2506.11550; small, a CNN
    that trains on CPUs."""
    method: Annotated[str, AfterValidator(_known_method)] = "remix"
    """Training method, such as remix, joint_heads or ogm_ge: see `remix compare`. A method changes
    the defaults of model, train and plan."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the weights, the order of the batches, and the augmentation."""
    model: ModelConfig = ModelConfig()
    """Encoders, fusion and heads."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer and learning rate."""
    train: TrainConfig = TrainConfig()
    """Training loop."""
    plan: PlanConfig = PlanConfig()
    """How scores become a plan."""
    source: SourceConfig | None = None
    """What to decode if the features do not exist yet; null: they must exist."""
    resources: ResourcesConfig = ResourcesConfig()
    """Workers, checkpoints and cache; free to change when a run is resumed."""
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Loggers of hyperparameters, metrics and test results. wandb and mlflow write to the run's
    folder unless WANDB_MODE or MLFLOW_TRACKING_URI is set."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        method = METHODS.get(str(value.get("method", "remix")), METHODS["remix"])
        preset = PRESETS.get(str(value.get("preset", "small")), {})
        return merge(merge(preset, method.changes), value)

    @property
    def joint_epochs(self) -> int:
        """Number of epochs at the start that are always joint."""
        is_joint = METHODS[self.method].schedule == "joint"
        return self.train.epochs if is_joint else min(self.train.warmup_epochs, self.train.epochs)

    @property
    def first_selectable(self) -> int:
        """The first epoch that can be tested; 0 if there is no epoch after the warm-up."""
        train = self.train
        after_warmup = train.select.since == "warmup" and train.warmup_epochs < train.epochs
        return train.warmup_epochs if after_warmup else 0

    @property
    def digest(self) -> str:
        """Hash of the fields that decide the result.

        Fields at their defaults are left out, so that adding a field changes no digest. The modules
        of import paths and the content of pretrained weights are part of it. Raises ConfigError if
        one is missing.
        """
        return self.digest_with(self.model.weights)

    def digest_with(self, weights: Mapping[str, Identity]) -> str:
        """As `digest`, with given identities of the pretrained weights."""
        config = self._without_paths()
        fields = config.model_dump(mode="json", exclude=NOT_IN_DIGEST, exclude_defaults=True)
        extensions = {**self._modules, **weights}
        return fingerprint_of({**fields, "extensions": extensions} if extensions else fields)

    @property
    def extensions(self) -> dict[str, Identity]:
        """The identities of all modules of import paths and all pretrained weights.

        Raises ConfigError.
        """
        return {**self._modules, **self.model.weights}

    @property
    def _modules(self) -> dict[str, Identity]:
        others = (self.plan.policy, self.train.strategy)
        own = [path for path in others if path is not None and is_import_path(path)]
        return identities([*self.model.import_paths, *own])

    def _without_paths(self) -> "RunConfig":
        return self.model_copy(update={"model": self.model.without_paths})

    def differences(self, other: "RunConfig") -> list[str]:
        """Paths of the fields that decide the result and differ in `other`."""
        own, others = (
            config._without_paths().model_dump(mode="json", exclude=NOT_IN_DIGEST)
            for config in (self, other)
        )
        return list(differing(own, others))

    @property
    def features_path(self) -> StorePath:
        """<store>/features/<features>"""
        return StorePath.at(self.store) / "features" / self.features

    @property
    def run_path(self) -> StorePath:
        """<store>/runs/<name>"""
        return StorePath.at(self.store) / "runs" / self.name


def check_world(config: RunConfig) -> None:
    """Check that a global batch has a row for each worker. Raises ConfigError."""
    workers = max(config.resources.workers, 1)
    if config.train.batch_size < workers:
        raise ConfigError(
            f"train.batch_size is {config.train.batch_size}, less than the {workers} workers",
            f"set train.batch_size to {workers} or more",
        )


def load_run(path: str | Path, values: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a run's YAML file, with other values of some fields, by path such as train.epochs.

    Raises ConfigError, MissingError.
    """

    def changed(value: Any) -> Any:
        return merge(value, nested(values or {})) if isinstance(value, dict) else value

    return load(RunConfig, path, changed)
