"""Commands on the jobs of a Ray cluster: submit, jobs, stop."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pipeline.errors import ConfigError
from remix.cli.output import Json, console, progress, say
from remix.cli.train import summary

if TYPE_CHECKING:
    from trainer.cluster.jobs import Cluster, Job

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
