"""Two ranks give the scores, evaluation and test outcomes of one, without exchanging rows."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import torch.distributed as dist

from pipeline.features.feature_set import FeatureSet
from pipeline.storage.store_path import StorePath
from tests.support.cached_features import Remote
from tests.support.ranks import on_two_ranks
from tests.support.stores import make_features, run_config
from trainer.config import RunConfig
from trainer.data.inputs import Inputs
from trainer.models.checkpoint import architecture
from trainer.models.model import model_for
from trainer.process_group import World
from trainer.recorder import write_test
from trainer.run_directory import Run
from trainer.scoring.diagnostics import zero_mask_accuracies
from trainer.scoring.epoch_scores import score_epoch
from trainer.scoring.predictor import Predictor, evaluate


def assess(config: RunConfig, world: World) -> None:
    """Score, evaluate and test the initial model of a run."""
    features, run = FeatureSet.open(config.features_path), Run(config.run_path)
    model = model_for(config.model, features, config.seed)
    inputs = Inputs(architecture(config.model, features), config.seed, world.device)
    predictor = Predictor(model, inputs, features, world.device)
    score_epoch(config, features, run, world, predictor, 0, features.rows_of("train"))
    size, outcomes = config.train.score_batch, []
    evaluation = evaluate(predictor, features, "validation", size, world)
    alone = zero_mask_accuracies(predictor, features, features.rows_of("validation"), size, world)
    evaluate(predictor, features, "test", size, world, outcomes)
    joined = world.join_rows(run.parts("test"), outcomes)
    assert (joined is None) == (world.rank > 0)
    if joined is not None:
        write_test(run, features, joined)
        result = {
            "accuracy": evaluation.accuracy,
            "loss": evaluation.loss,
            "rho": evaluation.rho,
            "macro_f1": evaluation.macro_f1,
            "temperature": evaluation.temperature,
            "alone": alone,
        }
        (run.path / "evaluation.json").write_json(result)


def counted(exchange: Callable[..., None], sizes: list[int]) -> Callable[..., None]:
    """A collective of objects that records the number of bytes."""

    def call(*given: Any, **named: Any) -> None:
        sizes.append(len(pickle.dumps(given)))
        exchange(*given, **named)

    return call


def assess_all(world: World, configs: list[RunConfig]) -> None:
    sizes: list[int] = []
    for name in ("all_gather_object", "broadcast_object_list"):
        setattr(dist, name, counted(getattr(dist, name), sizes))
    for config in configs:
        assess(config, world)
    assert sizes and max(sizes) < 1000


def join_twice(world: World, folder: Path) -> None:
    slow = StorePath(pafs.PyFileSystem(Remote(folder, seconds=0.5)), "parts")
    for value in range(2):
        joined = world.join_rows(slow, [pa.table({"row": [world.rank], "value": [value]})])
        expected = {"row": [0, 1], "value": [value] * 2} if world.rank == 0 else None
        assert (joined and joined.to_pydict()) == expected


def test_ranks_wait_until_their_tables_are_read(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    on_two_ranks(tmp_path, join_twice, tmp_path / "store")


def test_two_ranks_give_the_results_of_one(tmp_path: Path) -> None:
    features = make_features(tmp_path / "features" / "made", missing=0.2, num_rows=400)

    def config_of(name: str, score_batch: int, copies: str) -> RunConfig:
        train = {"warmup_epochs": 0, "score_batch": score_batch}
        return run_config(
            tmp_path, name=f"{name}-{score_batch}", train=train, plan={"copies": copies}
        )

    kinds = ((32, "resample"), (4096, "none"))  # of 4096 the second rank has no batch
    twos = [config_of("two", *kind) for kind in kinds]
    for config in twos:
        Run.create(config, features)
        for name in ("epoch-0000", "test"):
            for rank in (0, 2):  # files left by a killed run with more ranks
                (Run(config.run_path).parts(name) / f"rank-{rank}.arrow").write_bytes(b"cut")
    on_two_ranks(tmp_path, assess_all, twos)
    for two, kind in zip(twos, kinds, strict=True):
        one = config_of("one", *kind)
        Run.create(one, features)
        assess(one, World())
        pair = Run(one.run_path), Run(two.run_path)
        for name in ("scores/epoch-0000.arrow", "test.arrow"):
            first, second = ((run.path / name).read_bytes() for run in pair)
            assert first == second, name
        first, second = (json.loads((run.path / "evaluation.json").read_bytes()) for run in pair)
        assert second == {**first, "loss": pytest.approx(first["loss"], rel=1e-12)} | {
            "rho": pytest.approx(first["rho"], rel=1e-12)
        }
        assert [entry.name for entry in (pair[1].path.local / "scores").iterdir()] == [
            "epoch-0000.arrow"
        ]
