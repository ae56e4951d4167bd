"""Commands on scores and plans: score, plan, stats."""

from typing import Annotated, Any

from typer import Option

from remix.cli.output import Json, pairs, progress, say, show


def score(
    features: str,
    checkpoint: Annotated[str, Option()],
    out: Annotated[str, Option()],
    split: str = "train",
    workers: Annotated[int, Option(min=1)] = 1,
    gpus: Annotated[float, Option(min=0, help="GPUs per worker.")] = 0,
    batch: Annotated[int, Option(min=1)] = 64,
    json_: Json = False,
) -> None:
    """Score every sample of a split with a checkpoint (Ray Data)."""
    from pipeline.features.feature_set import FeatureSet
    from pipeline.storage.arrow_files import write_table
    from pipeline.storage.store_path import StorePath, without_secrets

    feature_set, path = FeatureSet.open(StorePath.at(features)), StorePath.at(checkpoint)
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
    scores: str,
    out: Annotated[str, Option()],
    batch_size: int = 64,
    seed: int = 0,
    epoch: int = 0,
    order: str = "sequential",
    policy: str = "kl",
    shares: Annotated[
        str, Option(help="natural, equal, validation, or NAME=SHARE,NAME=SHARE")
    ] = "natural",
    min_share: float = 0.0,
    relative: str = "none",
    smoothing: float = 0.0,
    temperature: float = 0.0,
    joint_share: float = 0.0,
    copies: str = "none",
    stratify: bool = False,
    locality: int | None = None,
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
    fields = {"order": order, "policy": policy, "shares": parsed_shares, "min_share": min_share}
    fields |= {"relative": relative, "smoothing": smoothing, "temperature": temperature}
    fields |= {"joint_share": joint_share, "copies": copies, "stratify": stratify}
    fields |= {"locality": locality}
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
    plan: str,
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
