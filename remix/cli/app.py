"""The `remix` command: each subcommand calls one function.

torch and ray are loaded only by the commands that need them.
"""

import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer import Option

import remix
from pipeline.errors import RemixError
from remix.cli import cluster, data, doctor, importers, plan, serve, train
from remix.cli.output import with_verbosity

LOG = logging.getLogger("remix.cli")
MIN_RICH_COLUMNS = 60
RUN = "store/runs/demo-remix-seed0"
PANELS: dict[str, dict[Callable[..., None], tuple[str, ...]]] = {
    "Start": {
        train.demo: ("remix demo", "remix demo --seeds 1 --store /tmp/store"),
        doctor.doctor: ("remix doctor", "remix doctor --store s3://bucket/store"),
    },
    "Data": {
        data.generate: ("remix generate shards --samples 480 --modalities audio,video",),
        data.decode: ("remix decode shards --out store/features/clips",),
        data.lint: ("remix lint shards",),
        data.repair: ("remix repair shards --out repaired",),
        data.inspect: (
            "remix inspect demo-remix-seed0 --store store",
            "remix inspect shards",
        ),
    },
    "Scores and plans": {
        plan.score: (
            f"remix score demo --checkpoint {RUN}/checkpoints/best.pt --out scores.arrow",
        ),
        plan.plan: (
            "remix plan scores.arrow --out plan.arrow --order interleaved",
            "remix plan scores.arrow --out plan.arrow --shares equal --force",
        ),
        plan.stats: (
            f"remix stats {RUN}/plans/epoch-0011.arrow",
            "remix stats plan.arrow --scores scores.arrow",
        ),
    },
    "Training": {
        train.train: (
            "remix train run.yaml --set train.epochs=1 --set seed=3",
            "remix train run.yaml --resume",
        ),
        train.compare: (
            "remix compare run.yaml --methods joint_heads,remix --seeds 3",
            "remix compare run.yaml --tune optimizer.lr=1e-4,3e-4,1e-3 --budget flops",
        ),
        cluster.submit: ("remix submit run.yaml --store s3://bucket/store --follow",),
        train.verify: ("remix verify demo-remix-seed0", f"remix verify {RUN} --parts"),
    },
    "Results": {
        serve.serve: ("remix serve --store store", "remix serve --host 0.0.0.0 --port 9000"),
        data.export: (
            "remix export demo-remix-seed0 --out epochs.csv",
            f"remix export {RUN}/plans/epoch-0011.arrow --out plan.parquet",
        ),
        serve.report: ("remix report demo-remix-seed0 --out run.html",),
    },
}
"""Commands with their examples, by their group in the help."""
IMPORTS: dict[str, tuple[Callable[..., None], str]] = {
    "table": (
        importers.import_table,
        "remix import table clips.csv shards --modality audio=wav_path --modality video=mp4_path",
    ),
    "hf": (importers.import_hf, "remix import hf my_dataset shards --modality image=image"),
    "cremad": (importers.import_cremad, "remix import cremad CREMA-D shards"),
    "kinetics-sounds": (
        importers.import_kinetics_sounds,
        "remix import kinetics-sounds kinetics shards",
    ),
}
"""Commands of `remix import`, each with an example."""


def _epilog(*examples: str) -> str:
    """Examples below a help; typer keeps only the line breaks between paragraphs."""
    return "\n\n".join(["Examples:" if len(examples) > 1 else "Example:", *examples])


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"remix {remix.__version__}")
        raise typer.Exit


# rich cuts the names and texts of options off in a narrow terminal
columns = shutil.get_terminal_size().columns
narrow = columns < MIN_RICH_COLUMNS
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None if narrow else "rich",
    context_settings={"terminal_width": columns} if narrow else None,
)


@app.callback(
    epilog=_epilog("remix demo", "remix inspect store", "remix train --help"),
)
def root(
    version: Annotated[
        bool,
        Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Data Remixing for multimodal training: shards → features → scores → plans → training."""


sources = typer.Typer(no_args_is_help=True, help="Import a dataset.")
app.add_typer(sources, name="import", rich_help_panel="Data")
for name, (command, example) in IMPORTS.items():
    sources.command(name, epilog=_epilog(example))(with_verbosity(command))
for panel, commands in PANELS.items():
    for command, examples in commands.items():
        add = app.command(rich_help_panel=panel, epilog=_epilog(*examples))
        add(with_verbosity(command))


def main() -> None:
    """Run the command. Exits 0 on success, 1 if the work failed, 2 if the input is wrong."""
    # import paths of own encoders; at the end, so that no file there hides a package
    sys.path.append(str(Path.cwd()))
    try:
        app(standalone_mode=True)
    except RemixError as error:
        LOG.info("The error was raised here:", exc_info=error)
        _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        cure = "pip install 'data-remixing[train]'"
        _fail(f"package not installed: {error.name!r}. Run {cure}.", 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(what: str, exit_code: int) -> NoReturn:
    message = ("[bold red]remix:[/]", escape(what))
    Console(stderr=True).print(*message, highlight=False, soft_wrap=True)
    sys.exit(exit_code)
