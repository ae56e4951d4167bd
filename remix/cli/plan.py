"""Commands on scores and plans: score, plan, stats."""

from typing import Annotated, Any

from typer import Argument, Option

from remix.cli.names import NameStore, path_of
from remix.cli.output import Json, pairs, progress, say, show


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

    feature_set = FeatureSet.open(StorePath.at(path_of(features, store, "features")))
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
    out: Annotated[str, Option(help="Plan file to write.")],
    batch_size: Annotated[int, Option(help="Rows per global batch.")] = 64,
    seed: Annotated[int, Option(help="Seed of the run; determines the order.")] = 0,
    epoch: Annotated[int, Option(help="Epoch; determines the order.")] = 0,
    order: Annotated[
        str, Option(help="Order of the batches: sequential, interleaved or mixed.")
    ] = "sequential",
    policy: Annotated[str, Option(help="Assignment of rows to modalities: kl or random.")] = "kl",
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
    json_: Json = False,
) -> None:
    """Make a plan of modality-pure batches from a scores file."""
    from pipeline.features.feature_set import FeatureSet
    from pipeline.scores.table import Scores
    from pipeline.storage.store_path import StorePath, without_secrets
    from remix.api import plan as run

    parsed_shares: Any = pairs(shares.split(","), "--shares") if "=" in shares else shares
    fields = {"order": order, "policy": policy, "shares": parsed_shares, "relative": relative}
    fields |= {"joint_share": joint_share, "copies": copies}
    fields |= {"stratify": stratify, "locality": locality}
    opened = Scores.open(StorePath.at(scores))
    if features:
        opened.check_features(FeatureSet.open(StorePath.at(features)))
    StorePath.at(out).check_writable()
    batches = run(opened, batch_size=batch_size, seed=seed, epoch=epoch, out=out, **fields)
    shown = without_secrets(out)
    say(
        {"steps": len(batches), "fingerprint": batches.fingerprint, "out": shown},
        f"{len(batches)} steps: {shown} (fingerprint {batches.fingerprint[:12]})",
        json_,
    )


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
