"""Commands on scores and plans: score, plan, stats."""

import shutil
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from pipeline.errors import DataError, InputError
from remix.cli.names import NameStore
from remix.cli.output import Json, pairs, progress, say, show

if TYPE_CHECKING:
    from pipeline.plans.builder import PlanBuilder
    from pipeline.storage.store_path import StorePath


def score(
    features: Annotated[str, Argument(help="Name of a feature set, or STORE/features/NAME.")],
    checkpoint: Annotated[str, Option(help="Checkpoint of a run, e.g. checkpoints/best.pt.")],
    out: Annotated[str, Option(help="Scores file to write.")],
    split: Annotated[str, Option(help="Split to score.")] = "train",
    workers: Annotated[int, Option(min=1, help="Number of Ray actors.")] = 1,
    gpus: Annotated[float, Option(min=0, help="GPUs per worker.")] = 0,
    batch: Annotated[int, Option(min=1, help="Rows per forward pass.")] = 64,
    store: NameStore = None,
    json_: Json = False,
) -> None:
    """Score every sample of a split with a checkpoint (Ray Data)."""
    from pipeline.features.feature_set import FeatureSet
    from pipeline.storage.arrow_files import write_table
    from pipeline.storage.store_path import StorePath, without_secrets
    from pipeline.store_names import path_of

    feature_set = FeatureSet.open(path_of(features, "features", store=store))
    path = StorePath.at(checkpoint)
    StorePath.at(out).check_writable()
    from trainer.scoring.offline import score_checkpoint

    with progress("score") as update:
        table = score_checkpoint(
            feature_set,
            path,
            split,
            batch_size=batch,
            workers=workers,
            num_gpus=gpus,
            progress=update,
        )
    write_table(StorePath.at(out), table)
    shown = without_secrets(out)
    say({"rows": table.num_rows, "out": shown}, f"{table.num_rows} rows: {shown}", json_)


def plan(
    scores: Annotated[str, Argument(help="Scores file.")],
    out: Annotated[str, Option(help="Plan file to write; - is standard output.")],
    batch_size: Annotated[int, Option(help="Rows per global batch.")] = 64,
    seed: Annotated[int, Option(help="Seed of the run; determines the order.")] = 0,
    epoch: Annotated[int, Option(help="Epoch; determines the order.")] = 0,
    order: Annotated[
        str, Option(help="Order of the batches: sequential, interleaved or mixed.")
    ] = "sequential",
    policy: Annotated[
        str,
        Option(help="Assignment of rows to modalities: kl, random, or package.module:name."),
    ] = "kl",
    shares: Annotated[
        str, Option(help="Target shares: natural, equal, or NAME=SHARE,NAME=SHARE.")
    ] = "natural",
    relative: Annotated[str, Option(help="Normalisation of abilities: none or validation.")] = (
        "none"
    ),
    joint_share: Annotated[float, Option(help="Share of rows that keep all modalities.")] = 0.0,
    copies: Annotated[
        str, Option(help="none, or resample: repeat rows by their Shapley values.")
    ] = "none",
    stratify: Annotated[bool, Option(help="Give each batch the class mix of its subset.")] = False,
    locality: Annotated[
        int | None, Option(help="Shuffle within windows of this many rows; by default all rows.")
    ] = None,
    features: Annotated[
        str | None,
        Option(help="The scored features; checks that the scores belong to them."),
    ] = None,
    force: Annotated[
        bool, Option("--force", help="Replace the file if it exists and is not this plan.")
    ] = False,
    json_: Json = False,
) -> None:
    """Make a plan of modality-pure batches from a scores file."""
    from pipeline.config import parse
    from pipeline.features.feature_set import FeatureSet
    from pipeline.plans.config import PlanConfig
    from pipeline.plans.planner import remix_plan_builder
    from pipeline.scores.table import Scores
    from pipeline.storage.store_path import StorePath, without_secrets

    parsed_shares: Any = pairs(shares.split(","), "--shares") if "=" in shares else shares
    fields = {"order": order, "policy": policy, "shares": parsed_shares, "relative": relative}
    fields |= {"joint_share": joint_share, "copies": copies}
    fields |= {"stratify": stratify, "locality": locality}
    opened = Scores.open(StorePath.at(scores))
    if features:
        opened.check_features(FeatureSet.open(StorePath.at(features)))
    config = parse(PlanConfig, fields, "remix plan")
    builder = remix_plan_builder(opened, config, batch_size=batch_size, seed=seed, epoch=epoch)
    written = _to_stdout(builder) if out == "-" else _to_file(StorePath.at(out), builder, force)
    shown = without_secrets(out)
    # standard output is the plan's
    with redirect_stdout(sys.stderr) if out == "-" else nullcontext():
        say(
            {**written, "out": shown},
            f"{written['steps']} steps: {shown} (fingerprint {written['fingerprint'][:12]})",
            json_,
        )


def _to_file(path: "StorePath", builder: "PlanBuilder", force: bool = False) -> dict[str, Any]:
    """Write a plan; returns its number of steps and fingerprint.

    Raises InputError if the file exists and is not this plan, unless `force`; StoreError.
    """
    from pipeline.plans.plan import BatchPlan
    from pipeline.plans.planner import write_plan
    from pipeline.storage.metadata import read_metadata

    path.check_writable()
    if path.exists() and not force:
        try:
            existing = BatchPlan.open(path, trusted=True).fingerprint
        except DataError:  # not a plan
            existing = ""
        if existing != read_metadata(builder.schema())["fingerprint"]:
            raise InputError(
                f"file already exists: {path}", "replace it with --force, or choose another name"
            )
    write_plan(path, builder)
    plan = BatchPlan.open(path, trusted=True)
    return {"steps": len(plan), "fingerprint": plan.fingerprint}


def _to_stdout(builder: "PlanBuilder") -> dict[str, Any]:
    """Write a plan to standard output, when it is complete; see `_to_file`."""
    from pipeline.storage.store_path import StorePath

    with TemporaryDirectory() as folder:
        path = Path(folder) / "plan.arrow"
        written = _to_file(StorePath.at(path), builder)
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.flush()
    return written


def stats(
    plan: Annotated[str, Argument(help="Plan file.")],
    scores: Annotated[
        str | None,
        Option(help="Scores that the plan was made from; not needed for a plan of a run."),
    ] = None,
    json_: Json = False,
) -> None:
    """Show the statistics of a plan."""
    from pipeline.plans.stats import statistics_at
    from pipeline.scores.table import Scores
    from pipeline.storage.store_path import StorePath

    opened = Scores.open(StorePath.at(scores)) if scores else None
    show(statistics_at(StorePath.at(plan), opened), json_, kind="statistics of", path=plan)
