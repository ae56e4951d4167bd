"""The training loop: every epoch has a plan, and a run is the sequence of its plans.

    for each epoch:  score (after warm-up) -> plan -> train the plan's steps -> validate -> checkpoint
    at the end:      the best epoch's model meets the test set, once

A run that was killed goes on from its last checkpoint: the cursor (epoch, next step) and the plan's fingerprint are all it takes,
because learning rate, augmentation and order are functions of (seed, epoch, step, row) and of nothing else.
"""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from pipeline.counter_rng import key_of
from pipeline.errors import MismatchError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from trainer.config import RunConfig
from trainer.data.inputs import Inputs
from trainer.data.plan_loader import PlanLoader
from trainer.epoch_plan import epoch_plan
from trainer.models import checkpoint as checkpoints
from trainer.models.checkpoint import Cursor
from trainer.models.model import FUSED, model_for
from trainer.process_group import World
from trainer.recorder import Recorder, write_test
from trainer.run_directory import Run
from trainer.scoring.diagnostics import Diagnostics
from trainer.scoring.predictor import Predictor, evaluate, outcomes
from trainer.strategies import strategy_of
from trainer.strategies.base import build_optimizer

Progress = Callable[[dict[str, Any]], None]


class Trainer:
    """A run in one process of the world; every process does the same, rank 0 writes."""

    def __init__(
        self, config: RunConfig, features: FeatureSet, run: Run, world: World, progress: Progress
    ) -> None:
        self.config, self.features, self.run = config, features, run
        self.world, self.progress = world, progress
        self.model = model_for(config.model, features, config.seed)
        self.architecture = checkpoints.architecture(config.model, features)
        if config.train.sync_batchnorm:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.model.to(world.device)
        self.optimizer = build_optimizer(config.optimizer, self.model)
        self.cursor = Cursor()
        self._resume()
        inputs = Inputs(self.architecture, config.seed, world.device)
        step = strategy_of(config)
        self.step = step(self.model, self._wrap(), inputs, self.optimizer, config, world)
        amp = config.train.amp == "bf16"
        self.predictor = Predictor(self.model, inputs, features, world.device, amp)
        self.diagnostics = (
            Diagnostics(self.model, inputs, self.predictor, features, config, world)
            if config.train.diagnostics
            else None
        )
        self.record = Recorder(
            run, features, world, self.cursor.epoch, self.cursor.step, masks=self.step.masks
        )

    def _wrap(self) -> nn.Module:
        if self.config.train.compile:
            self.model.compile_encoders()
        if self.world.size == 1:
            return self.model
        return nn.parallel.DistributedDataParallel(self.model, find_unused_parameters=True)

    def train(self) -> dict[str, Any]:
        """Runs all epochs that are left, then the test; returns the result that run.json keeps."""
        for epoch in range(self.cursor.epoch, self.config.train.epochs):
            self._epoch(epoch)
        self.record.close()
        return self._test()

    def _epoch(self, epoch: int) -> None:
        began = time.perf_counter()
        config, features, world = self.config, self.features, self.world
        plan, times = epoch_plan(config, features, self.run, world, self.predictor, epoch)
        if self.cursor.step and self.cursor.plan_fingerprint != plan.fingerprint:
            raise MismatchError(
                f"the checkpoint is in the middle of plan {self.cursor.plan_fingerprint[:12]}, but epoch {epoch} has plan {plan.fingerprint[:12]}",
                "restore the plan, or start a new run",
            )
        self._train(epoch, plan)
        validating = time.perf_counter()
        found = evaluate(self._outcomes("validation"), features, world)
        times["validate_seconds"] = time.perf_counter() - validating
        diagnosed = self.diagnostics.epoch() if self.diagnostics else {}
        times["epoch_seconds"] = time.perf_counter() - began
        fused = found.accuracy[FUSED] or 0.0
        improved = fused > self.cursor.best_accuracy
        if improved:
            self.cursor.best_epoch, self.cursor.best_accuracy = epoch, fused
        lr = config.optimizer.learning_rate(epoch)
        row = self.record.epoch(epoch, plan, found, lr, times, diagnosed)
        self._save("last", epoch + 1, 0, "")
        if improved:
            self._save("best", epoch + 1, 0, "")
        self.progress({"event": "epoch", "num_epochs": config.train.epochs, **row})

    def _train(self, epoch: int, plan: BatchPlan) -> None:
        """Takes the steps of a plan from the cursor on."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.optimizer.learning_rate(epoch)
        resources = self.config.resources
        skip = self.config.model.mask == "skip" and self.step.masks
        loader = PlanLoader(
            self.features,
            plan,
            start=self.cursor.step,
            world=self.world,
            skip_masked=skip,
            prefetch=resources.prefetch,
        )
        waiting = time.perf_counter()
        for batch in loader:
            stepping, step, num_steps = time.perf_counter(), batch.step.step, len(plan)
            # nothing here draws from it, but a layer such as dropout would: its draws then resume exactly too
            torch.manual_seed(step_seed(self.config.seed, epoch, step, self.world.rank))
            taken = self.step(batch, epoch)
            ends = step + 1 == num_steps
            pauses = ends or (step + 1) % resources.checkpoint_every == 0
            if pauses and self.world.device.type == "cuda":
                torch.cuda.synchronize()  # so that what is queued counts as the time of steps
            ended = time.perf_counter()
            self.record.step(
                epoch, batch, taken, wait_seconds=stepping - waiting, step_seconds=ended - stepping
            )
            self.progress({"event": "step", "epoch": epoch, "step": step, "num_steps": num_steps})
            if pauses and not ends:
                self._save("last", epoch, step + 1, plan.fingerprint)
            waiting = time.perf_counter()
        self.world.broadcast_buffers(self.model)
        self.cursor.step = 0

    def _save(self, name: str, epoch: int, step: int, plan_fingerprint: str) -> None:
        """Writes the steps taken so far, then a checkpoint that stands behind them."""
        self.record.flush()
        if not self.world.is_rank_zero:
            return
        cursor = replace(self.cursor, epoch=epoch, step=step, plan_fingerprint=plan_fingerprint)
        checkpoint = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "cursor": asdict(cursor),
            "architecture": self.architecture,
            "features": self.features.fingerprint,
            "digest": self.run.digest,
            "seed": self.config.seed,
            "amp": self.config.train.amp,
        }
        checkpoints.save(self.run.checkpoint(name), checkpoint)

    def _resume(self) -> None:
        """Goes to where the last checkpoint stands, if there is one (raises MismatchError)."""
        path = self.run.checkpoint("last")
        if not self.world.broadcast(path.exists()):
            return
        found = checkpoints.load(path)
        checkpoints.check_architecture(path, found["architecture"], self.architecture)
        if found["features"] != self.features.fingerprint:
            raise MismatchError(
                f"{path} was trained on features {found['features'][:12]}, not {self.features.fingerprint[:12]}",
                "give the features that it was trained on",
            )
        if found["digest"] != self.run.digest:
            raise MismatchError(
                f"{path} was trained under another configuration",
                "restore the configuration, or choose another name; only `source` and `resources` may change",
            )
        checkpoints.load_weights(path, self.model, found["model"])
        checkpoints.load_optimizer(path, self.optimizer, found.get("optimizer"))
        self.cursor = Cursor(**found["cursor"])
        just_ended = self.cursor.best_epoch + 1 == self.cursor.epoch and not self.cursor.step
        if self.world.is_rank_zero and just_ended:
            # killed after `last` and before `best` was written, which would have been the same
            checkpoints.save(self.run.checkpoint("best"), found)

    def _test(self) -> dict[str, Any]:
        """The model of the best validation epoch on the whole test set."""
        self.world.broadcast(None)  # rank 0 may still be writing it
        best = self.run.checkpoint("best")
        checkpoints.load_weights(best, self.model, checkpoints.load(best)["model"])
        mine = self._outcomes("test")
        result = {
            "best_epoch": self.cursor.best_epoch,
            "validation_accuracy": self.cursor.best_accuracy,
            "test_accuracy": evaluate(mine, self.features, self.world).accuracy,
        }
        if self.diagnostics:
            result["zero_mask_accuracy"] = self.diagnostics.zero_mask_accuracy("test")
        joined = self.world.join_rows(self.run.parts("test"), mine)
        if joined is not None:
            write_test(self.run, self.features, joined)
            self.run.update(status="finished", result=result)
        return result

    def _outcomes(self, split: str) -> list[pa.Table]:
        rows, batch_size = self.features.rows_of(split), self.config.train.score_batch
        return outcomes(self.predictor, self.features, rows, batch_size, self.world)


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """The seed of what a layer draws in a step: another one on each rank, the same after a resume."""
    return key_of(seed, epoch, step, rank)


def train(
    config: RunConfig,
    run: Run,
    features: FeatureSet,
    world: World | None = None,
    progress: Progress = lambda event: None,
) -> dict[str, Any]:
    """Trains a run that exists, from its start or its last checkpoint, to its end.

    Every process of the world calls this alike; the result is the one that run.json keeps.
    """
    world = world or World()
    if world.device.type == "cpu":
        # sums in another number of threads are other sums
        torch.set_num_threads(max(1, int(config.resources.cpus_per_worker)))
    nodes = world.gather(platform.node())
    if world.is_rank_zero:
        run.update(status="running", nodes=nodes, error=None)
    return Trainer(config, features, run, world, progress).train()
