"""`remix submit`: train a run as a job of a Ray cluster. `ray job` lists and stops jobs."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from remix.cli.output import Json, console, progress, say
from remix.cli.train import RunStore, SetValues, run_config_of, summary

if TYPE_CHECKING:
    from trainer.cluster.jobs import Cluster


def submit(
    config: Annotated[Path, Argument(help="YAML file; - reads standard input.")],
    set_: SetValues = None,
    store: RunStore = None,
    address: Annotated[
        str | None,
        Option(
            help="URL of the cluster's jobs API; "
            "by default $RAY_API_SERVER_ADDRESS or http://127.0.0.1:8265."
        ),
    ] = None,
    follow: Annotated[
        bool, Option("--follow", help="Show the job's log until it ends; exit with its exit code.")
    ] = False,
    json_: Json = False,
) -> None:
    """Train one run from a YAML file as a job of a Ray cluster."""
    from trainer.cluster.jobs import Cluster, exit_code_of, request_of

    run_config = run_config_of(config, set_, store)
    request = request_of(run_config)
    cluster = Cluster(address)
    output = {
        "job": cluster.submit(request),
        "run": request["metadata"]["remix.run"],
        "store": request["metadata"]["remix.store"],
    }
    if not follow:
        say(output, f"{output['job']}: {cluster.ways(output['job'])}", json_)
        return
    result = _follow(cluster, output["job"], output["run"])
    job = cluster.job(output["job"])
    output |= {"status": job.status.value, "exit_code": exit_code_of(job), **result}
    text = f"{output['job']}: {summary(result, run_config) if result else job.message}"
    say(output, f"{text} ({output['status']}, exit code {output['exit_code']})", json_)
    raise typer.Exit(output["exit_code"])


def _follow(cluster: "Cluster", job_id: str, run: str) -> dict[str, Any]:
    """Show a job's log and progress on stderr until it ends; returns its printed result, or {}."""
    result: dict[str, Any] = {}
    printed_at = 0.0
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
                        done == total or time.monotonic() > printed_at + 5
                    ):
                        printed_at = time.monotonic()
                        console.out(f"{text}: {done}/{total}", highlight=False)
                else:
                    result = event
    except KeyboardInterrupt:
        console.out(f"{job_id} keeps running: {cluster.ways(job_id)}", highlight=False)
        raise typer.Exit(130) from None
    return result
