"""Commands on data: generate, decode, lint, repair, inspect."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from remix.cli.names import NameStore
from remix.cli.output import Json, progress, say, say_markdown, show

Shards = Annotated[list[str], Argument(help="Shards (.tar), folders of shards, or globs.")]

ReadConfig = Annotated[
    Path | None,
    Option(help="YAML file with decoding options; by default decode.yaml next to the shards."),
]


def generate(
    out: Annotated[Path, Argument(help="Folder for the shards.")],
    profile: Annotated[
        Literal["plain", "slow", "crossed", "hollow", "leaky"],
        Option(help="Content: plain, or a weakness built in; see docs/profiles.md."),
    ] = "plain",
    samples: Annotated[
        int | None, Option(help="Number of samples; by default 480 for plain, 2,000 for others.")
    ] = None,
    classes: Annotated[int, Option(help="Number of classes.")] = 6,
    shards: Annotated[int, Option(help="Number of shards.")] = 4,
    seed: Annotated[int, Option(help="Seed; the same seed gives the same result.")] = 0,
    modalities: Annotated[
        str, Option(help="Two or more of audio, video, image, tensor, text; for plain only.")
    ] = "audio,video",
    validation_share: Annotated[
        float | None,
        Option(help="Share of samples for validation; by default 0.15 for plain, 0.12 for others."),
    ] = None,
    test_share: Annotated[
        float | None,
        Option(help="Share of samples for testing; by default 0.15 for plain, 0.38 for others."),
    ] = None,
    json_: Json = False,
) -> None:
    """Generate synthetic clips (H.264 and AAC in MP4) as WebDataset shards."""
    from pipeline.sources.synthetic.generate import PROFILES
    from pipeline.sources.synthetic.generate import generate as run

    _, validation, test = PROFILES[profile].shares
    validation = validation if validation_share is None else validation_share
    test = test if test_share is None else test_share
    with progress("generate") as update:
        result = run(
            out,
            profile=profile,
            samples=samples,
            classes=classes,
            shards=shards,
            seed=seed,
            modalities=tuple(modalities.split(",")),
            shares=(1 - validation - test, validation, test),
            progress=update,
        )
    text = f"{result['samples']} samples of {classes} classes in {shards} shards: {out}"
    say(result, text, json_)


def decode(
    shards: Shards,
    out: Annotated[str, Option(help="STORE/features/NAME")],
    config: Annotated[
        Path | None,
        Option(
            help="YAML file with decoding options; by default decode.yaml next to the shards, "
            "else inferred from samples of many shards."
        ),
    ] = None,
    max_rejected_share: Annotated[
        float | None,
        Option(help="Fail if a larger share is rejected; by default as configured (0.01)."),
    ] = None,
    verify: Annotated[
        bool,
        Option(
            "--verify", help="Hash shards that were decoded before; else size and version count."
        ),
    ] = False,
    address: Annotated[
        str | None, Option(help="Address of a Ray cluster; by default this machine.")
    ] = None,
    json_: Json = False,
) -> None:
    """Decode shards into a feature set (Ray Data)."""
    from pipeline.config import load, parse
    from pipeline.decode.config import DecodeConfig
    from pipeline.decode.inference import Inferred, infer_config
    from pipeline.decode.job import decode as run
    from pipeline.shards.discover import discover_shards
    from pipeline.storage.store_path import StorePath, without_secrets

    shard_list = discover_shards(shards)
    found = Inferred(config=load(DecodeConfig, config)) if config else infer_config(shard_list)
    options = found.config
    if max_rejected_share is not None:
        fields = {**options.model_dump(), "max_rejected_share": max_rejected_share}
        options = parse(DecodeConfig, fields, "--max-rejected-share")

    with progress("decode") as update:
        result = run(
            shard_list,
            StorePath.at(out),
            options,
            inferred=found.lines,
            verify=verify,
            address=address,
            progress=lambda state: update(state.num_done, state.num_shards, description=state.text),
        )
    reused = f"{result.num_reused} of {result.num_shards} shards already decoded"
    if result.unchanged:
        reused = "already decoded; reused"
    line = (
        f"{result.text}: {without_secrets(out)} ({reused}; fingerprint {result.fingerprint[:12]})"
    )
    say(asdict(result), "\n".join([*result.notes, line]), json_)


def lint(shards: Shards, config: ReadConfig = None, json_: Json = False) -> None:
    """Check shards for damage and for media that no modality reads, without decoding them.

    Exits 1 if there is damage, or more unread media than max_unread_share.
    """
    from pipeline.shards.discover import discover_shards
    from pipeline.shards.lint import lint as run

    shard_list = discover_shards(shards)
    with progress("lint") as update:
        result = run(shard_list, reading=reading(config, shard_list), progress=update)
    say(result, lint_text(result), json_)
    if result["num_lost"] or result["too_much_unread"]:
        raise typer.Exit(1)


def repair(
    shards: Shards,
    out: Annotated[str, Option(help="Folder for the repaired shards.")],
    config: ReadConfig = None,
    json_: Json = False,
) -> None:
    """Write new shards with all intact samples, and list the damage."""
    from pipeline.shards.discover import discover_shards
    from pipeline.shards.lint import repair as run
    from pipeline.storage.store_path import StorePath

    shard_list = discover_shards(shards)
    with progress("repair") as update:
        result = run(
            shard_list, StorePath.at(out), reading=reading(config, shard_list), progress=update
        )
    say(result, lint_text(result), json_)


def reading(config: Path | None, shards: list[Any]) -> Any:
    """How decoding with these options would read the shards."""
    from pipeline.config import load
    from pipeline.decode.config import DecodeConfig
    from pipeline.decode.inference import reading_of

    return load(DecodeConfig, config).reading if config else reading_of(shards)


def inspect(
    path: Annotated[
        str, Argument(help="Path or URI, or the name of a run, feature set or comparison.")
    ],
    store: NameStore = None,
    json_: Json = False,
) -> None:
    """Show the content of shards, features, a scores or plan file, a run or a comparison."""
    from pipeline.inspect import inspect as run
    from pipeline.store_names import path_of

    result = run(path_of(path, "features", "comparisons", "runs", store=store))
    if result["kind"] == "comparison":
        from trainer.comparison.tables import summary

        say_markdown(result, summary(result), result["path"], json_)
    else:
        show(result, json_)


def export(
    table: Annotated[
        str, Argument(help="Scores file, plan file, or path or name of a run: its epochs.")
    ],
    out: Annotated[str, Option(help="File to write, .parquet or .csv.")],
    store: NameStore = None,
    json_: Json = False,
) -> None:
    """Write scores, a plan or the epochs of a run as Parquet or CSV."""
    from pipeline.export import export as run
    from pipeline.storage.store_path import without_secrets
    from pipeline.store_names import path_of

    num_rows = run(path_of(table, "runs", store=store), out)
    shown = without_secrets(out)
    say({"rows": num_rows, "out": shown}, f"{num_rows} rows: {shown}", json_)


def lint_text(report: dict[str, Any]) -> str:
    """Format a lint report: one line per problem, then the totals."""
    from pipeline.shards.member_formats import mislabelled_text

    lines = []
    for shard in report["shards"]:
        name = shard["shard"]
        lines += [
            f"{name}: {loss['member'] or 'shard'} at byte {loss['offset']}: "
            f"{loss['reason']}: {loss['detail']}"
            for loss in shard["lost"]
        ]
        lines += [
            f"{name}: sample {key}: members not contiguous; joined" for key in shard["regrouped"]
        ]
        lines += [
            f"{name}: sample {sample['key']} cannot be decoded: "
            f"{sample['reason']}: {sample['detail']}"
            for sample in shard["unusable"]
        ]
    reasons = ", ".join(f"{reason} {num}" for reason, num in report["reasons"].items())
    total = (
        f"{report['samples_kept']} intact samples in {len(report['shards'])} shards, "
        f"{report['num_lost']} losses"
    )
    if reasons:
        total += f" ({reasons})"
    if num := report["num_regrouped"]:
        total += f", {num} non-contiguous samples joined"
    if num := report["num_unusable"]:
        total += f", {num} samples that cannot be decoded"
    if counts := report["mislabelled"]:
        total += f", members with another format than their suffix ({mislabelled_text(counts)})"
    if unread := report["unread"]:
        counts = ", ".join(f"{num} {suffix}" for suffix, num in unread.items())
        total += f", media that no modality reads ({counts})"
    if "out" in report:
        total += f": {report['out']}"
    return "\n".join([*lines, *report["notes"], total])
