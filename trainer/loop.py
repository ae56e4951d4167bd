"""The training loop.

    each epoch:  score (after warm-up) -> plan -> train the plan's steps -> validate -> checkpoint
    at the end:  test the best epoch's model and the assembled one

A run resumes exactly from its last checkpoint: learning rate, augmentation and order are functions
of (seed, epoch, step, row) and of the epochs before, so the cursor (epoch, next step) and the
plan's fingerprint are enough.
"""

import platform
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from pipeline.arrays import Int64Array
from pipeline.counter_rng import key_of
from pipeline.errors import MismatchError
from pipeline.features.feature_set import FeatureSet
from pipeline.plans.plan import BatchPlan
from trainer import race
from trainer.assembly.assemble import late_losses
from trainer.budget import Budget, rows_of_epoch
from trainer.config import RunConfig
from trainer.data.encoded import encode_frozen
from trainer.data.inputs import Inputs
from trainer.data.plan_loader import PlanLoader
from trainer.epoch_plan import epoch_plan
from trainer.final_test import test
from trainer.models import checkpoint as checkpoints
from trainer.models.checkpoint import Cursor
from trainer.process_group import World
from trainer.recorder import Recorder, write_test
from trainer.refit_fusion import refit_fusion
from trainer.run_directory import Run
from trainer.run_state import RunState
from trainer.schedule import (
    RACE_EPOCHS,
    Phase,
    Row,
    is_converged,
    phase_of,
    race_is_due,
    schedule_of,
)
from trainer.scoring.diagnostics import Diagnostics
from trainer.scoring.epoch_scores import due_rows
from trainer.scoring.outputs import Collector
from trainer.scoring.predictor import Predictor, evaluate
from trainer.selection import update_best
from trainer.strategies import strategy_of
from trainer.strategies.class_weights import class_weights

Progress = Callable[[dict[str, Any]], None]
Rates = Callable[[int], float]
"""The learning rate of each step of an epoch."""


class Trainer:
    """Trains a run in one of its processes. All processes do the same; rank 0 writes."""

    def __init__(
        self, config: RunConfig, features: FeatureSet, run: Run, world: World, progress: Progress
    ) -> None:
        self.config, self.run = config, run
        self.world, self.progress = world, progress
        self.state = RunState(config, features, run, world)
        self.model, self.tested = self.state.model, self.state.tested
        self.budget, self.source = Budget(config, features), features
        architecture = self.state.architecture
        features = encode_frozen(self.model, architecture, config, features, world)
        self.features = features
        self.model.encoded = self.tested.encoded = features.encoded
        inputs = Inputs(architecture, config.seed, world.device, features.encoded)
        if config.train.compile:
            for model in {self.model, self.tested}:
                model.compile_encoders()
        strategy = strategy_of(config)
        weights = class_weights(config, features)
        self.train_step = strategy(
            self.model,
            inputs,
            self.state.optimizer,
            config,
            world,
            None if weights is None else weights.to(world.device),
        )
        amp = config.train.amp == "bf16"
        self.predictor = Predictor(self.tested, inputs, features, world.device, amp)
        self.diagnostics = (
            Diagnostics(self.tested, inputs, self.predictor, features, config, world)
            if config.train.diagnostics
            else None
        )
        self.recorder = Recorder(
            run,
            config,
            features,
            world,
            self.cursor.epoch,
            self.cursor.step,
            masks=self.train_step.masks,
        )

    @property
    def cursor(self) -> Cursor:
        """Position of the run."""
        return self.state.cursor

    def train(self) -> dict[str, Any]:
        """Train the remaining epochs, test, and return the result stored in run.json."""
        result = None
        try:
            if self.cursor.epoch:
                self._complete_epoch()
            is_early = self._advance()
            result = self._test(is_early)
        finally:
            self.recorder.close(result)
        return result

    def _test(self, is_early: bool) -> dict[str, Any]:
        """Test, and write the result to run.json."""
        self.world.broadcast(None)  # barrier: rank 0 may still be writing the checkpoint
        result, predictions = test(
            self.config,
            self.run,
            self.features,
            self.world,
            self.predictor,
            self.cursor,
            self.diagnostics,
        )
        if is_early:
            result["stopped_epoch"] = self.cursor.epoch - 1
        if predictions is not None:
            write_test(self.run, self.features, predictions)
            self.run.update(status="finished", result=result)
        return result

    def _advance(self, until: int | None = None) -> bool:
        """Train until an epoch, or until the run's epochs or budget are spent.

        Returns whether `train.patience` ended it before.
        """
        while (epoch := self.cursor.epoch) != until:
            self._finish_race(epoch)
            history = race.charged_history(self.run, epoch) if self.world.is_rank_zero else []
            names, schedule = self.model.modalities, schedule_of(self.config, history)
            phase, share, is_due, converged = self.world.broadcast(
                (
                    phase_of(self.config, names, history, schedule),
                    self.budget.share(history),
                    race_is_due(self.config, names, history),
                    until is None and is_converged(self.config, names, history, schedule),
                )
            )
            if not share:
                return False
            if converged and not is_due and not self._races(epoch):
                return True
            if is_due:
                self._race(epoch)
            if not self.cursor.step:
                self.state.restore_parts(phase.restored)
            self._epoch(epoch, phase, share, schedule, history)
            self.cursor.epoch += 1
        return False

    def _races(self, epoch: int) -> bool:
        """Whether a race that started before an epoch is not decided yet."""
        starts = range(epoch - RACE_EPOCHS + 1, epoch)
        races = [race.race_of(self.run, start).path / "run.json" for start in starts]
        return self.world.broadcast(any(path.exists() for path in races))

    def _race(self, epoch: int) -> None:
        """Train the challenger of method `auto` from the state at the start of an epoch."""
        if self.world.is_rank_zero:
            race.prepare(self.run, self.config, epoch)
        self.world.broadcast(None)  # barrier: the state is copied
        rival, config = race.race_of(self.run, epoch), race.challenger_of(self.config)
        challenger = Trainer(config, self.source, rival, self.world, lambda event: None)
        challenger._advance(epoch + RACE_EPOCHS)
        challenger.recorder.close()

    def _finish_race(self, epoch: int) -> None:
        """If a race ends with the epoch before, compare, and continue from its state if it won."""
        start = epoch - RACE_EPOCHS
        rival = race.race_of(self.run, start)
        path, world = rival.path / "result.json", self.world
        if start < 0 or not world.broadcast((rival.path / "run.json").exists()):
            return
        if not world.broadcast(path.exists()):
            losses = [
                late_losses(
                    self.config,
                    run,
                    self.features,
                    world,
                    self.predictor,
                    checkpoints.load(run.checkpoint("last")),
                )
                for run in (self.run, rival)
            ]
            if losses[0] is not None and losses[1] is not None:
                race.decide(self.run, self.config, start, losses[0], losses[1])
        result = world.broadcast(path.read_json() if world.is_rank_zero else {})
        if result["won"] and not result["applied"]:
            if world.is_rank_zero:
                race.take_over(self.run, start)
            world.broadcast(None)  # barrier: the state is replaced
            self.state.resume()

    def _epoch(
        self, epoch: int, phase: Phase, share: float, schedule: str, history: list[Row]
    ) -> None:
        """Train an epoch; `history` are the rows of epochs.arrow before, on rank 0."""
        start = time.perf_counter()
        config, features, world = self.config, self.features, self.world
        refits = config.train.refit_fusion and phase.kind == "remix" and not self.cursor.step
        collector = Collector(config, self.run, features, world) if refits else None
        plan, times = epoch_plan(
            config, features, self.run, world, self.predictor, epoch, phase, share, collector
        )
        scored = rows_of_epoch(config, features, epoch, share)
        is_scored = phase.kind == "remix" and self.run.scores(epoch).exists()
        scored = due_rows(config, self.run, epoch, scored) if is_scored else scored[:0]
        rates = self._rates(epoch, phase, plan, share, history, scored)
        if collector and is_scored:
            self._refit(collector, epoch, scored, rates(0))
        if self.cursor.step and self.cursor.plan_fingerprint != plan.fingerprint:
            raise MismatchError(
                f"the checkpoint is in the middle of plan {self.cursor.plan_fingerprint[:12]}, "
                f"but epoch {epoch} has plan {plan.fingerprint[:12]}",
                "restore the plan, or start a new run",
            )
        self._train(epoch, plan, rates)
        validation_start = time.perf_counter()
        evaluation = evaluate(
            self.predictor, features, "validation", config.train.score_batch, world
        )
        times["validate_seconds"] = time.perf_counter() - validation_start
        diagnostics = self.diagnostics.epoch() if self.diagnostics else {}
        times["epoch_seconds"] = time.perf_counter() - start
        columns: dict[str, Any] = {"epoch": epoch, "schedule": schedule, **evaluation.columns}
        improved = update_best(self.cursor, columns, config, self.model.modalities)
        columns |= {
            "best_epoch": self.cursor.best_epoch if self.cursor.best_epoch >= 0 else None,
            **{f"best_epoch_{name}": part.epoch for name, part in self.cursor.best_parts.items()},
            "learning_rate": rates(len(plan) - 1),
        }
        if world.is_rank_zero:
            seconds = times["epoch_seconds"]
            progress = self.budget.progress(history, plan, scored=scored, seconds=seconds)
            columns["progress"] = progress if share == 1 else 1.0
        row = self.recorder.epoch(epoch, plan, {**columns, **times, **diagnostics})
        self._save("last", epoch + 1, 0, "")
        for name in improved:
            self._save(name, epoch + 1, 0, "")
        self.progress({"event": "epoch", "num_epochs": config.train.epochs, **row})

    def _rates(
        self,
        epoch: int,
        phase: Phase,
        plan: BatchPlan,
        share: float,
        history: list[Row],
        scored: Int64Array,
    ) -> Rates:
        """The learning rate of each step of an epoch."""
        span = (0.0, 1.0)
        if self.world.is_rank_zero:  # it has the history
            span = self.budget.span(history, plan, scored=scored, share=share)
        span, optimizer = self.world.broadcast(span), self.config.optimizer
        return lambda step: phase.rate * optimizer.learning_rate(epoch, step, len(plan), span)

    def _refit(self, collector: Collector, epoch: int, scored: Int64Array, rate: float) -> None:
        """Train the fusion on the outputs of the rows (n,) that the epoch scored."""
        rows = collector.sample(scored, self.model)
        outputs, labels = collector.joined(rows, self.model), self.features.labels[rows]
        loss = self.train_step.cross_entropy
        refit_fusion(self.model, outputs, rows, labels, self.config, epoch, rate, self.world, loss)
        self.tested.fusion.load_state_dict(self.model.fusion.state_dict())

    def _train(self, epoch: int, plan: BatchPlan, rates: Rates) -> None:
        """Train on the steps of a plan, starting at the cursor."""
        self.model.train()
        resources, accumulate = self.config.resources, self.config.train.accumulate
        skip = self.config.model.mask == "skip" and self.train_step.masks
        loader = PlanLoader(
            self.features,
            plan,
            start=self.cursor.step,
            world=self.world,
            skip_masked=skip,
            prefetch=resources.prefetch,
            accumulate=accumulate,
        )
        wait_start = time.perf_counter()
        for batch in loader:
            step_start, step, num_steps = time.perf_counter(), batch.step.step, len(plan)
            # a model with dropout resumes exactly too, since its draws depend only on the step
            torch.manual_seed(step_seed(self.config.seed, epoch, step, self.world.rank))
            for group in self.state.optimizer.param_groups:
                group["lr"] = rates(step) * group["lr_scale"]
            output = self.train_step(batch, epoch)
            if batch.ends_update:
                self.state.updated()
            is_last = step + 1 == num_steps
            # gradients are not saved, so a checkpoint waits for the end of an update
            interval_ended = (step + 1) % resources.checkpoint_every < accumulate
            checkpoint_due = is_last or (batch.ends_update and interval_ended)
            if checkpoint_due and self.world.device.type == "cuda":
                torch.cuda.synchronize()  # count queued kernels as step time
            step_end = time.perf_counter()
            self.recorder.step(
                epoch,
                batch,
                output,
                wait_seconds=step_start - wait_start,
                step_seconds=step_end - step_start,
            )
            self.progress({"event": "step", "epoch": epoch, "step": step, "num_steps": num_steps})
            if checkpoint_due and not is_last:
                self._save("last", epoch, step + 1, plan.fingerprint)
            wait_start = time.perf_counter()
        self.state.broadcast_buffers()
        self.cursor.step = 0

    def _save(self, name: str, epoch: int, step: int, plan_fingerprint: str) -> None:
        """Write the checkpoint `last`, `best`, or the part of a modality.

        The steps are written first, so that no checkpoint is ahead of the log.
        """
        self.recorder.flush()
        self.state.save(name, epoch, step, plan_fingerprint)

    def _complete_epoch(self) -> None:
        """Write the best checkpoints of the last epoch, in case a process was killed before."""
        epoch = self.cursor.epoch
        best = {name: part.epoch for name, part in self.cursor.best_parts.items()}
        for name, best_epoch in {**best, "best": self.cursor.best_epoch}.items():
            if best_epoch + 1 == epoch and not self.cursor.step:
                self._save(name, epoch, 0, "")


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """Seed of a layer's random draws in a step: differs between ranks, same after a resume."""
    return key_of(seed, epoch, step, rank)


def train(
    config: RunConfig,
    run: Run,
    features: FeatureSet,
    world: World | None = None,
    progress: Progress = lambda event: None,
) -> dict[str, Any]:
    """Train an existing run, from its start or its last checkpoint, to its end.

    Every process of the world calls this; returns the result stored in run.json.
    """
    world = world or World()
    if world.device.type == "cpu":
        # floating-point sums depend on the number of threads
        torch.set_num_threads(max(1, int(config.resources.cpus_per_worker)))
    nodes = world.gather(platform.node())
    world = replace(world, node_size=nodes.count(platform.node()))
    if world.is_rank_zero:
        run.update(status="running", nodes=nodes, error=None)
    return Trainer(config, features, run, world, progress).train()
