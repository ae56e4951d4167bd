"""The `remix` command: each subcommand calls one function; torch and ray are loaded only by those that need them."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from pipeline.errors import ConfigError, RemixError

if TYPE_CHECKING:
    from trainer.cluster.jobs import Cluster, Job
    from trainer.config import RunConfig
    from trainer.run_directory import Run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Data Remixing: shards → features → scores → plans → training.",
)
sources = typer.Typer(no_args_is_help=True, help="Turn data as people have it on disk into shards.")
app.add_typer(sources, name="import")

console = Console(stderr=True)
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of text.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="The jobs API of a Ray cluster; by default $RAY_API_SERVER_ADDRESS or http://127.0.0.1:8265."
    ),
]
Follow = Annotated[
    bool,
    typer.Option(
        "--follow", help="Show the job's log and progress to its end, and end with its exit code."
    ),
]
Shards = Annotated[list[str], typer.Argument(help="Shards (.tar), folders of shards, or globs.")]


def say(result: dict[str, Any], text: str, as_json: bool) -> None:
    """Ends a command: one line of JSON, or the text."""
    print(json.dumps(result, ensure_ascii=False) if as_json else text)


def show(result: dict[str, Any], as_json: bool, **title: str) -> None:
    """Ends a command that shows what is in something: one line of JSON, or a tree under its kind and path."""
    from pipeline.inspect import render

    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        Console().print(render({**title, **result}))


@contextmanager
def progress(title: str) -> Iterator[Any]:
    """A progress bar on a terminal, lines of JSON for who asks by REMIX_PROGRESS=json: yields update(done, total)."""
    if os.environ.get("REMIX_PROGRESS") == "json":
        with progress_lines(title) as update:
            yield update
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, **facts: bar.update(task, completed=done, total=total, **facts)


@contextmanager
def progress_lines(title: str) -> Iterator[Any]:
    """Progress for a program, on stderr: at most two lines of JSON a second, and always the last."""
    told_at, waiting = 0.0, ""

    def tell() -> None:
        nonlocal told_at, waiting
        sys.stderr.write(waiting)
        sys.stderr.flush()
        told_at, waiting = time.monotonic(), ""

    def update(done: int | None, total: int | None, description: str = title) -> None:
        nonlocal waiting
        waiting = (
            json.dumps(
                {
                    "progress": {
                        "title": title,
                        "done": done,
                        "total": total,
                        "description": description,
                    }
                }
            )
            + "\n"
        )
        if time.monotonic() >= told_at + 0.5:
            tell()

    try:
        yield update
    finally:
        tell()


class Terminated(SystemExit):
    """The end on SIGTERM; a run keeps its name as the reason."""

    def __str__(self) -> str:
        return "SIGTERM"


@contextmanager
def orderly_end() -> Iterator[None]:
    """Makes SIGTERM an exception, so that what is under way is left as after any other."""

    def end(number: int, frame: object) -> None:
        raise Terminated(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def pairs(values: list[str], option: str) -> dict[str, str]:
    """NAME=VALUE options as a mapping (raises ConfigError)."""
    found = dict(value.partition("=")[::2] for value in values)
    if any("=" not in value for value in values) or len(found) < len(values):
        raise ConfigError(
            f"{option} {' '.join(values)!r}",
            f"give each as {option} NAME=VALUE, and each name once",
        )
    return found


@app.command()
def generate(
    out: Path,
    samples: int = 480,
    classes: int = 6,
    shards: int = 4,
    seed: int = 0,
    modalities: Annotated[
        str, typer.Option(help="Two or more of audio, video, image, tensor, text.")
    ] = "audio,video",
    validation_share: float = 0.15,
    test_share: float = 0.15,
    json_: Json = False,
) -> None:
    """Make real encoded clips (H.264 + AAC in MP4) as WebDataset shards."""
    from pipeline.sources.synthetic.generate import generate as run

    with progress("generate") as update:
        shares = (1 - validation_share - test_share, validation_share, test_share)
        result = run(
            out,
            samples=samples,
            classes=classes,
            shards=shards,
            seed=seed,
            modalities=tuple(modalities.split(",")),
            shares=shares,
            progress=update,
        )
    say(result, f"{samples} samples of {classes} classes in {shards} shards: {out}", json_)


@sources.command("table")
def import_table(
    manifest: Path,
    out: Path,
    modality: Annotated[list[str], typer.Option(help="NAME=PATH_COLUMN, once per modality.")],
    label: str = "label",
    split: str = "split",
    sample_id: str = "sample_id",
    where: Annotated[list[str], typer.Option(help="COLUMN=VALUE: keep only such rows.")] = [],  # noqa: B006
    kind: Annotated[
        list[str],
        typer.Option(
            help="NAME=video|audio|image|tensor|text where the file's ending does not tell."
        ),
    ] = [],  # noqa: B006
    root: Annotated[
        Path | None, typer.Option(help="Where the paths start; by default the manifest's folder.")
    ] = None,
    split_by: Annotated[
        str | None, typer.Option(help="No value of this column is in both train and validation.")
    ] = None,
    validation_share: float = 0.0,
    shards: Annotated[
        int | None, typer.Option(help="Number of shards; by default about 256 samples each.")
    ] = None,
    seed: int = 0,
    json_: Json = False,
) -> None:
    """Turn a CSV with sample_id, split, label and a path column per modality into shards."""
    from pipeline.sources.importers.table import import_table as run

    with progress("import") as update:
        result = run(
            manifest,
            out,
            modalities=pairs(modality, "--modality"),
            label=label,
            split=split,
            sample_id=sample_id,
            where=pairs(where, "--where"),
            kinds=pairs(kind, "--kind"),
            root=root,
            split_by=split_by,
            validation_share=validation_share,
            num_shards=shards,
            seed=seed,
            progress=update,
        )
    say(result, f"{result['samples']} samples: {out}", json_)


@sources.command("cremad")
def import_cremad(
    src: Annotated[Path, typer.Argument(help="The folder that has AudioWAV and VideoFlash in it.")],
    out: Path,
    lists: Annotated[
        list[Path] | None,
        typer.Argument(
            help="With --split lists: TRAIN.csv TEST.csv [VAL.csv].", show_default=False
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="actor: no actor on two sides; lists: as published lists say.")
    ] = "actor",
    video: Annotated[
        str | None,
        typer.Option(
            help="The folder in SRC that the videos lie in; by default the one that is there."
        ),
    ] = None,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Leave out clips that lack a half.")
    ] = False,
    validation_share: Annotated[
        float, typer.Option(help="Of all clips, or of the train list.")
    ] = 0.1,
    test_share: Annotated[
        float, typer.Option(help="Of all clips; lists name the test themselves.")
    ] = 0.15,
    shards: Annotated[
        int | None, typer.Option(help="Number of shards; by default about 256 samples each.")
    ] = None,
    seed: int = 0,
    json_: Json = False,
) -> None:
    """Turn CREMA-D as its authors give it out into shards."""
    from pipeline.sources.importers.cremad import import_cremad as run

    shares = {"validation_share": validation_share, "test_share": test_share}
    with progress("import") as update:
        result = run(
            src,
            out,
            split=split,
            lists=lists or (),
            video=video,
            allow_incomplete=allow_incomplete,
            **shares,
            num_shards=shards,
            seed=seed,
            progress=update,
        )
    say(result, imported(result, out), json_)


@sources.command("kinetics-sounds")
def import_kinetics_sounds(
    src: Annotated[
        Path,
        typer.Argument(
            help="The folder of SPLIT/CLASS or CLASS folders, or with --csv of clips in any folders."
        ),
    ],
    out: Path,
    csv: Annotated[
        list[Path], typer.Option(help="Kinetics' own file of labels and splits; may be repeated.")
    ] = [],  # noqa: B006
    allow_missing_classes: Annotated[
        bool,
        typer.Option(
            "--allow-missing-classes", help="Go on where some of the 31 classes have no clip."
        ),
    ] = False,
    allow_incomplete: Annotated[
        bool,
        typer.Option(
            "--allow-incomplete", help="Leave out clips that are not there or have no sound."
        ),
    ] = False,
    validation_share: Annotated[
        float, typer.Option(help="Of what is train at first; where no clip is validation yet.")
    ] = 0.1,
    test_share: Annotated[
        float, typer.Option(help="Of what is train at first; where no clip is test yet.")
    ] = 0.15,
    shards: Annotated[
        int | None, typer.Option(help="Number of shards; by default about 256 samples each.")
    ] = None,
    seed: int = 0,
    json_: Json = False,
) -> None:
    """Turn Kinetics-Sounds, in class folders or with Kinetics' CSV files, into shards."""
    from pipeline.sources.importers.kinetics_sounds import import_kinetics_sounds as run

    allowed = {"allow_missing_classes": allow_missing_classes, "allow_incomplete": allow_incomplete}
    shares = {"validation_share": validation_share, "test_share": test_share}
    with progress("import") as update:
        result = run(
            src, out, csv=csv, **allowed, **shares, num_shards=shards, seed=seed, progress=update
        )
    say(result, imported(result, out), json_)


def imported(result: dict[str, Any], out: Path) -> str:
    """What an importer of a known set did, in words."""
    splits = ", ".join(f"{each['samples']} {split}" for split, each in result["splits"].items())
    origin = result["origin"]
    rest = [
        *(
            [f"{len(origin['left_out'])} left out, named in shards.json"]
            if origin["left_out"]
            else []
        ),
        *([f"{origin['num_unlisted']} in no list"] if origin.get("num_unlisted") else []),
        *(
            [f"without {', '.join(origin['missing_classes'])}"]
            if origin.get("missing_classes")
            else []
        ),
    ]
    return "; ".join([f"{result['samples']} samples ({splits})", *rest]) + f": {out}"


@app.command()
def decode(
    shards: Shards,
    out: Annotated[str, typer.Option(help="STORE/features/NAME")],
    config: Annotated[
        Path | None,
        typer.Option(
            help="A DecodeConfig in YAML; by default decode.yaml beside the shards, else inferred."
        ),
    ] = None,
    max_rejected_share: Annotated[
        float | None,
        typer.Option(
            help="Fail above this share of rejected samples; by default as the config says (0.01)."
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster; by default this machine.")
    ] = None,
    json_: Json = False,
) -> None:
    """Decode shards into per-modality feature tables (Ray Data)."""
    from pipeline.config import DecodeConfig, load, parse
    from pipeline.shards.discover import find_shards
    from pipeline.storage.store_path import Place, without_secrets

    found = find_shards(shards)
    given = load(DecodeConfig, config) if config else None
    from pipeline.decode.job import Progress
    from pipeline.decode.job import decode as run
    from pipeline.decode.preflight import infer_config

    asked = given or infer_config(found)
    if max_rejected_share is not None:
        asked = parse(
            DecodeConfig,
            {**asked.model_dump(), "max_rejected_share": max_rejected_share},
            "--max-rejected-share",
        )

    with progress("scan") as update:

        def tell(at: Progress) -> None:
            update(
                at.num_done,
                at.num_shards,
                description=f"{at.stage}: {at.num_rows} rows, {at.num_rejected} rejected; shards",
            )

        result = run(found, Place.at(out), asked, address=address, progress=tell)
    kept = (
        "was there already"
        if result.unchanged
        else f"{result.num_reused} of {result.num_shards} shards were decoded before"
    )
    line = f"{result.text}: {without_secrets(out)} ({kept}; fingerprint {result.fingerprint[:12]})"
    say(asdict(result), "\n".join([*result.notes, line]), json_)


@app.command()
def lint(
    shards: Shards,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A DecodeConfig in YAML, for its limits and members; by default decode.yaml beside the shards."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Read shards without decoding and name all that is lost in them; exit code 1 where anything is."""
    from pipeline.shards.discover import find_shards
    from pipeline.shards.lint import lint as run
    from pipeline.shards.lint import text_of

    found = find_shards(shards)
    with progress("lint") as update:
        result = run(found, progress=update, **reading(config, found))
    say(result, text_of(result), json_)
    if result["num_lost"]:
        raise typer.Exit(1)


@app.command()
def repair(
    shards: Shards,
    out: Annotated[str, typer.Option(help="A folder for the clean shards.")],
    config: Annotated[
        Path | None,
        typer.Option(
            help="A DecodeConfig in YAML, for its limits and members; by default decode.yaml beside the shards."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Write clean shards of all samples that are whole, and name what they lack."""
    from pipeline.shards.discover import find_shards
    from pipeline.shards.lint import repair as run
    from pipeline.shards.lint import text_of
    from pipeline.storage.store_path import Place

    found = find_shards(shards)
    with progress("repair") as update:
        result = run(found, Place.at(out), progress=update, **reading(config, found))
    say(result, text_of(result), json_)


def reading(config: Path | None, shards: list[Any]) -> dict[str, Any]:
    """How shards are read: with the limits and members of a configuration, where there is one."""
    from pipeline.config import DecodeConfig, load
    from pipeline.decode.preflight import config_beside

    found = load(DecodeConfig, config) if config else config_beside(shards)
    return {"limits": found.limits, "known": found.members} if found else {}


@app.command()
def inspect(path: str, json_: Json = False) -> None:
    """Show what is in a shard, a feature set, a scores or plan file, or a run."""
    from pipeline.inspect import inspect as run

    show(run(path), json_)


@app.command()
def score(
    features: str,
    checkpoint: Annotated[str, typer.Option()],
    out: Annotated[str, typer.Option()],
    split: str = "train",
    workers: Annotated[int, typer.Option(min=1)] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each worker.")] = 0,
    batch: Annotated[int, typer.Option(min=1)] = 64,
    json_: Json = False,
) -> None:
    """Score the difficulty of every sample with a checkpoint (Ray Data)."""
    from pipeline.features.feature_set import FeatureSet, write_table
    from pipeline.storage.store_path import Place, without_secrets

    feature_set, place = FeatureSet.open(Place.at(features)), Place.at(checkpoint)
    Place.at(out).check_writable()
    from trainer.scoring.offline import score_checkpoint

    with progress("score") as update:
        table = score_checkpoint(
            feature_set,
            place,
            split,
            batch_size=batch,
            workers=workers,
            num_gpus=gpus,
            progress=update,
        )
    write_table(Place.at(out), table)
    shown = without_secrets(out)
    say({"rows": table.num_rows, "out": shown}, f"{table.num_rows} rows: {shown}", json_)


@app.command()
def plan(
    scores: str,
    out: Annotated[str, typer.Option()],
    batch_size: int = 64,
    seed: int = 0,
    epoch: int = 0,
    order: str = "sequential",
    policy: str = "kl",
    shares: Annotated[
        str, typer.Option(help="natural, equal, validation, or NAME=SHARE,NAME=SHARE")
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
        typer.Option(help="The features that were scored: the scores are checked against them."),
    ] = None,
    json_: Json = False,
) -> None:
    """Make a plan of modality-pure batches from a scores file."""
    from pipeline.config import PlanConfig, parse
    from pipeline.features.feature_set import FeatureSet
    from pipeline.plans.plan import BatchPlan, remix_draft, write_plan
    from pipeline.scores.table import Scores
    from pipeline.storage.store_path import Place, without_secrets

    wanted: Any = pairs(shares.split(","), "--shares") if "=" in shares else shares
    given = {
        "order": order,
        "policy": policy,
        "shares": wanted,
        "min_share": min_share,
        "stratify": stratify,
        "locality": locality,
    }
    given |= {
        "relative": relative,
        "smoothing": smoothing,
        "temperature": temperature,
        "joint_share": joint_share,
        "copies": copies,
    }
    config = parse(PlanConfig, given, "remix plan")
    opened = Scores.open(Place.at(scores))
    if features:
        opened.check_features(FeatureSet.open(Place.at(features)))
    Place.at(out).check_writable()
    fingerprint = write_plan(
        Place.at(out), remix_draft(opened, config, batch_size=batch_size, seed=seed, epoch=epoch)
    )
    num_steps = len(BatchPlan.open(Place.at(out), trusted=True))
    shown = without_secrets(out)
    say(
        {"steps": num_steps, "fingerprint": fingerprint, "out": shown},
        f"{num_steps} steps: {shown} (fingerprint {fingerprint[:12]})",
        json_,
    )


@app.command()
def stats(
    plan: str,
    scores: Annotated[
        str | None,
        typer.Option(
            help="The scores that the plan was made from; those of a plan in a run's folder are found."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Show the statistics of a plan."""
    from pipeline.plans.stats import statistics_at
    from pipeline.scores.table import Scores
    from pipeline.storage.store_path import Place

    show(
        statistics_at(Place.at(plan), Scores.open(Place.at(scores)) if scores else None),
        json_,
        kind="statistics of",
        path=plan,
    )


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A YAML file; - is standard input.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that exists.")] = False,
    json_: Json = False,
) -> None:
    """Train one run from a YAML file."""
    from trainer.config import load_run

    with orderly_end():
        run = train_run(load_run("/dev/stdin" if str(config) == "-" else config), resume)
    result = run.facts["result"]
    say({"run": run.place.name, **result}, f"{run.place}: {summary(result)}", json_)


def summary(result: dict[str, Any]) -> str:
    """The result of a run in words."""
    return (
        f"best epoch {result['best_epoch']}, test accuracy {result['test_accuracy']['fused']:.4f}"
    )


@app.command()
def submit(
    config: Path, address: Address = None, follow: Follow = False, json_: Json = False
) -> None:
    """Train one run from a YAML file as a job of a Ray cluster."""
    from trainer.cluster.jobs import Cluster, request_of
    from trainer.config import load_run

    request = request_of(load_run(config))
    cluster = Cluster(address)
    job = cluster.submit(request)
    if follow:
        follow_job(cluster, job, json_)
    say(job.facts(), f"{job.id}: {cluster.ways(job.id)}", json_)


@app.command()
def jobs(
    job: Annotated[
        str | None,
        typer.Argument(
            help="A job's id, or a run's name for its newest job; by default all are listed."
        ),
    ] = None,
    address: Address = None,
    follow: Follow = False,
    json_: Json = False,
) -> None:
    """Show the jobs of a Ray cluster that were submitted here, or one of them with the end of its log."""
    from trainer.cluster.jobs import Cluster

    if follow and job is None:
        raise ConfigError("--follow is given without a job", "name one: remix jobs JOB --follow")
    cluster = Cluster(address)
    if job is None:
        there = [each.facts() for each in cluster.jobs()]
        print(json.dumps({"jobs": there}, ensure_ascii=False)) if json_ else Console().print(
            table_of(there)
        )
    elif follow:
        follow_job(cluster, cluster.job(job), json_)
    else:
        found = cluster.job(job)
        end = [event for event in cluster.log(found.id) if isinstance(event, str)][-20:]
        say({**found.facts(), "log": end}, "\n".join([*end, found.text]), json_)


@app.command()
def stop(
    job: Annotated[str, typer.Argument(help="A job's id, or the name of a run that is under way.")],
    address: Address = None,
    json_: Json = False,
) -> None:
    """Stop a job of a Ray cluster; submitted again, its run goes on where it stopped."""
    from trainer.cluster.jobs import Cluster

    stopped = Cluster(address).stop(job)
    say(stopped.facts(), stopped.text, json_)


def table_of(found: list[dict[str, Any]]) -> Any:
    """Jobs as a table."""
    from datetime import timedelta

    from rich.table import Table

    table = Table("job", "run", "status", "started", "duration")
    for each in found:
        table.add_row(
            each["job"],
            each["run"],
            each["status"],
            each["started"],
            str(timedelta(seconds=round(each["seconds"] or 0))),
        )
    return table


def follow_job(cluster: "Cluster", job: "Job", json_: bool) -> None:
    """Shows a job's log and progress on stderr until its end, then its result, and ends with its exit code (raises typer.Exit)."""
    result: dict[str, Any] = {}
    told_at = 0.0
    try:
        with progress(job.run or job.id) as update:
            for event in cluster.follow(job.id):
                if isinstance(event, str):
                    console.out(event, highlight=False)
                elif "progress" in event:
                    done, total, text = (
                        event["progress"].get(key) for key in ("done", "total", "description")
                    )
                    update(done, total, description=text)
                    if not console.is_terminal and (
                        done == total or time.monotonic() > told_at + 5
                    ):
                        told_at = time.monotonic()
                        console.out(f"{text}: {done}/{total}", highlight=False)
                else:
                    result = event
    except KeyboardInterrupt:
        console.out(f"{job.id} goes on: {cluster.ways(job.id)}", highlight=False)
        raise typer.Exit(130) from None
    job = cluster.job(job.id)
    say({**job.facts(), **result}, f"{job.text}: {summary(result)}" if result else job.text, json_)
    raise typer.Exit(job.exit_code)


@app.command()
def compare(
    config: Path,
    methods: Annotated[
        str | None,
        typer.Option(
            help="METHOD or METHOD:POLICY, by commas.  [default: joint_heads,random,remix]",
            show_default=False,
        ),
    ] = None,
    tables: Annotated[
        str | None,
        typer.Option(
            help="All methods of fusion, methods, mid-fusion, ablation, unimodal or policies, by commas."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="How many seeds, counted from the config's own.")
    ] = 5,
    json_: Json = False,
) -> None:
    """Train several methods over several seeds, the same everything else; runs that are there are taken up."""
    from trainer.comparison.compare import compare as run
    from trainer.comparison.compare import markdown
    from trainer.comparison.methods import methods_of
    from trainer.config import load_run

    base = load_run(config)
    result = run(
        base,
        methods_of(methods, tables),
        range(base.seed, base.seed + seeds),
        lambda each: train_run(each, resume=True),
    )
    say(result, f"{markdown(result)}\n{result['place']}", json_)


def train_run(config: "RunConfig", resume: bool) -> "Run":
    """Brings a run to its end, in this process or on Ray, with a progress bar."""
    from trainer.launch import launch

    with progress(config.name) as update:

        def show(event: dict[str, Any]) -> None:
            if event["event"] in ("takeover", "decoded"):
                console.out(f"{config.name}: {event['text']}", highlight=False)
            if event["event"] == "source":
                update(
                    event["num_done"],
                    event["num_shards"],
                    description=f"{event['stage']}: {event['num_rows']} rows; shards",
                )
            if event["event"] == "epoch":
                accuracy = (
                    f": validation accuracy {event['validation_accuracy']:.3f}"
                    if "validation_accuracy" in event
                    else ""
                )
                update(
                    event["epoch"] + 1,
                    event["num_epochs"],
                    description=f"{config.name}{accuracy}; epochs",
                )

        return launch(config, resume=resume, progress=show)


@app.command()
def serve(
    store: Annotated[
        str | None,
        typer.Option(
            help="A folder or any pyarrow.fs URI.  [default: $REMIX_STORE or store]",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="[default: $REMIX_HOST or 127.0.0.1]", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="[default: $REMIX_PORT or 8000]", show_default=False)
    ] = None,
) -> None:
    """Show a store over HTTP and on a page; reads, never writes."""
    from service.serve import serve as run
    from service.settings import settings_of

    run(settings_of(store=store, host=host, port=port))


@app.command()
def verify(
    run: Annotated[str, typer.Argument(help="STORE/runs/NAME")],
    parts: Annotated[
        bool,
        typer.Option(
            "--parts", help="Read every file of the features too, and compare its SHA-256."
        ),
    ] = False,
    json_: Json = False,
) -> None:
    """Prove from a run's artifacts that every planned row was trained exactly once; exit code 1 where something does not hold."""
    from pipeline.storage.store_path import Place
    from trainer.run_directory import Run
    from trainer.verification.verify import text_of
    from trainer.verification.verify import verify as check

    opened = Run.open(Place.at(run))
    with progress("verify") as update:
        result = check(opened, parts=parts, progress=update)
    say(result, text_of(result), json_)
    if not result["ok"]:
        raise typer.Exit(1)


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="STORE/runs/NAME")],
    out: Annotated[str, typer.Option(help="The HTML file.")],
    json_: Json = False,
) -> None:
    """Write the page of one run as one HTML file that needs no network."""
    from pipeline.storage.store_path import Place, without_secrets
    from service.report import write_report

    result, shown = write_report(run, Place.at(out)), without_secrets(out)
    say(
        {"out": shown, **result},
        f"{shown}: {result['bytes']} bytes, {result['answers']} answers of the service",
        json_,
    )


@app.command()
def demo(
    store: str = "store", seeds: Annotated[int, typer.Option(min=1)] = 3, json_: Json = False
) -> None:
    """Generate clips, decode them, train joint_heads, random and remix on a small budget, and compare."""
    from pipeline.config import parse
    from pipeline.storage.store_path import without_secrets
    from trainer.config import RunConfig

    if "://" in store:
        raise ConfigError(
            f"--store is {without_secrets(store)!r}",
            "give a folder: generated shards are written to a local disk",
        )
    shards, features = Path(store) / "shards" / "demo", Path(store) / "features" / "demo"
    with redirect_stdout(sys.stderr):
        if not shards.exists():
            generate(shards)
        decode([str(shards)], str(features))
    from trainer.comparison.compare import compare as run
    from trainer.comparison.compare import markdown

    small = {
        "train": {"epochs": 12, "warmup_epochs": 4, "batch_size": 32},
        "resources": {"cpus_per_worker": 2},
    }
    config = parse(RunConfig, {"name": "demo", "features": "demo", "store": store, **small}, "demo")
    result = run(
        config,
        ["joint_heads", "random", "remix"],
        range(seeds),
        lambda each: train_run(each, resume=True),
    )
    where = f"Everything lies in {store}: shards/demo, features/demo, runs/demo-*, comparisons/demo. `remix serve --store {store}` shows it."
    say(result, f"{markdown(result)}\n{where}", json_)


def main() -> None:
    """Runs the command: exit code 0, 1 the work failed, 2 bad input."""
    try:
        app(standalone_mode=True)
    except RemixError as error:
        console.print("[bold red]remix:[/]", escape(str(error)), highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        cure = "pip install 'remix[train]'"
        console.print(
            f"[bold red]remix:[/] this needs {error.name!r}, which is not installed; {escape(cure)}",
            highlight=False,
            soft_wrap=True,
        )
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
