"""Races of method `auto`: another method is trained for a few epochs from a run's checkpoint.

It is trained as a run of its own in <run>/races/epoch-EEEE/, which begins as a copy of the run's
state. If it wins, its epochs take the place of the run's, and the run continues from its state.
"""

from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.arrays import Float64Array
from pipeline.storage.arrow_files import write_table
from trainer.config import RunConfig
from trainer.run_directory import Run
from trainer.schedule import RACE_EPOCHS, Row

CHALLENGER = "handover"


def race_of(run: Run, epoch: int) -> Run:
    """The folder of the race that starts with an epoch."""
    return Run(run.path / "races" / f"epoch-{epoch:04d}")


def challenger_of(config: RunConfig) -> RunConfig:
    """The configuration of a race; other loggers than TensorBoard would show it as another run."""
    loggers = tuple(name for name in config.loggers if name == "tensorboard")
    return config.model_copy(update={"method": CHALLENGER, "loggers": loggers})


def prepare(run: Run, config: RunConfig, epoch: int) -> None:
    """Copy the run's state at the start of an epoch to the race, once."""
    race, challenger = race_of(run, epoch), challenger_of(config)
    if not (race.path / "run.json").exists():
        for path in (run.path / "checkpoints").list():
            (race.path / "checkpoints" / path.name).write_bytes(path.read_bytes())
        rows, schema = charged_history(run, epoch), run.epochs().schema
        write_table(race.path / "epochs.arrow", pa.Table.from_pylist(rows, schema))
        metadata = {**run.metadata, "config": challenger.model_dump(mode="json")}
        # written last: a race with this file has its complete state
        (race.path / "run.json").write_json(metadata)


def decide(
    run: Run, config: RunConfig, epoch: int, own: Float64Array, other: Float64Array
) -> dict[str, Any]:
    """Compare validation losses (n,) of the run and of the race, and write the race's result.json.

    The race is won if its mean loss is lower by more than one paired standard error. Its result has
    `spent`, the share of the run's budget that went into the epochs of the loser, 0 without one.
    """
    race, end = race_of(run, epoch), epoch + RACE_EPOCHS
    gain = own - other
    error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else float("inf")
    won = bool(gain.mean() > error)
    before, after = charged_history(run, epoch)[-1], (run if won else race).history(end)[-1]
    result = {
        "epoch": epoch,
        "method": CHALLENGER,
        "loss": float(own.mean()),
        "loss_of_race": float(other.mean()),
        "standard_error": error,
        "won": won,
        "spent": after["progress"] - before["progress"] if config.train.budget.is_set else 0.0,
        "applied": False,
    }
    (race.path / "result.json").write_json(result)
    return result


def charged_history(run: Run, epoch: int) -> list[Row]:
    """The rows of epochs.arrow before an epoch.

    Progress is as if the losers of races that ended since a row had been trained before it, so that
    differences between rows are what epochs have spent.
    """
    paths = (each.path / "result.json" for each in run.races())
    spent = {
        result["epoch"] + RACE_EPOCHS: result["spent"]
        for result in (path.read_json() for path in paths if path.exists())
    }
    return [
        {
            **row,
            "progress": row["progress"]
            + sum(share for end, share in spent.items() if row["epoch"] < end <= epoch),
        }
        for row in run.history(epoch)
    ]


def take_over(run: Run, epoch: int) -> None:
    """Continue from a race that was won: its epochs and its state replace the run's.

    The last checkpoint is replaced last, so that a killed process repeats all of it.
    """
    race, epochs = race_of(run, epoch), range(epoch, epoch + RACE_EPOCHS)
    prefixes = tuple(f"epoch-{number:04d}" for number in epochs)
    for folder in ("plans", "scores", "steps"):
        for path in (run.path / folder).list():
            if path.name.startswith(prefixes):
                path.delete()
        for path in (race.path / folder).list():
            (run.path / folder / path.name).write_bytes(path.read_bytes())
    write_table(run.path / "epochs.arrow", race.epochs())
    names = [path.name for path in (race.path / "checkpoints").list()]
    for name in sorted(names, key=lambda name: (PurePosixPath(name).stem == "last", name)):
        (run.path / "checkpoints" / name).write_bytes(
            (race.path / "checkpoints" / name).read_bytes()
        )
    path = race.path / "result.json"
    path.write_json({**path.read_json(), "applied": True})
