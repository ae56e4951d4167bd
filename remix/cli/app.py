"""The `remix` command: each subcommand calls one function.

torch and ray are loaded only by the commands that need them.
"""

import os
import sys
from typing import NoReturn

import typer
from rich.markup import escape

from pipeline.errors import RemixError
from remix.cli import cluster, data, importers, plan, serve, train
from remix.cli.output import console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Data Remixing for multimodal training: shards → features → scores → plans → training.",
)
sources = typer.Typer(no_args_is_help=True, help="Import a dataset.")
app.add_typer(sources, name="import")
sources.command("table")(importers.import_table)
sources.command("hf")(importers.import_hf)
sources.command("cremad")(importers.import_cremad)
sources.command("kinetics-sounds")(importers.import_kinetics_sounds)
for command in (
    data.generate,
    data.decode,
    data.lint,
    data.repair,
    data.inspect,
    plan.score,
    plan.plan,
    plan.stats,
    train.train,
    cluster.submit,
    train.compare,
    serve.serve,
    train.verify,
    serve.report,
    train.demo,
):
    app.command()(command)


def main() -> None:
    """Run the command. Exits 0 on success, 1 if the work failed, 2 if the input is wrong."""
    try:
        app(standalone_mode=True)
    except RemixError as error:
        _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        cure = "pip install 'data-remixing[train]'"
        _fail(f"package not installed: {error.name!r}. Run {cure}.", 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(what: str, exit_code: int) -> NoReturn:
    console.print("[bold red]remix:[/]", escape(what), highlight=False, soft_wrap=True)
    sys.exit(exit_code)
