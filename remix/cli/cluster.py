"""The command that trains a run as a job of a Ray cluster; Ray's own `ray job` lists and stops it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from remix.cli.output import Json, console, progress, say
from remix.cli.train import summary

if TYPE_CHECKING:
    from trainer.cluster.jobs import Cluster


def submit(
    config: Path,
    address: Annotated[
        str | None,
        Option(
            help="The jobs API of a Ray cluster; by default $RAY_API_SERVER_ADDRESS or http://127.0.0.1:8265."
        ),
    ] = None,
    follow: Annotated[
        bool, Option("--follow", help="Show the job's log to its end, and end with its exit code.")
    ] = False,
    json_: Json = False,
) -> None:
    """Train one run from a YAML file as a job of a Ray cluster."""
    from trainer.cluster.jobs import Cluster, exit_code_of, request_of
    from trainer.config import load_run

    request = request_of(load_run(config))
    cluster = Cluster(address)
    facts = {
        "job": cluster.submit(request),
        "run": request["metadata"]["remix.run"],
        "store": request["metadata"]["remix.store"],
    }
    if not follow:
        say(facts, f"{facts['job']}: {cluster.ways(facts['job'])}", json_)
        return
    result = _follow(cluster, facts["job"], facts["run"])
    job = cluster.job(facts["job"])
    facts |= {"status": job.status.value, "exit_code": exit_code_of(job), **result}
    text = f"{facts['job']}: {summary(result) if result else job.message}"
    say(facts, f"{text} ({facts['status']}, exit code {facts['exit_code']})", json_)
    raise typer.Exit(facts["exit_code"])


def _follow(cluster: "Cluster", job_id: str, run: str) -> dict[str, Any]:
    """Shows a job's log and progress on stderr until its end; returns the result that it printed, if any."""
    result: dict[str, Any] = {}
    told_at = 0.0
    try:
        with progress(run) as update:
            for event in cluster.follow(job_id):
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
        console.out(f"{job_id} goes on: {cluster.ways(job_id)}", highlight=False)
        raise typer.Exit(130) from None
    return result
