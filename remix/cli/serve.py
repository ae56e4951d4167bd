"""Commands that show a store: serve, report."""

from typing import Annotated

from typer import Argument, Option

from remix.cli.names import NameStore
from remix.cli.output import Json, say


def serve(
    store: Annotated[
        str | None,
        Option(help="Folder or pyarrow.fs URI.", show_default="$REMIX_STORE or store"),
    ] = None,
    host: Annotated[
        str | None, Option(help="Address to listen on.", show_default="$REMIX_HOST or 127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, Option(help="Port to listen on.", show_default="$REMIX_PORT or 8000")
    ] = None,
    root_path: Annotated[
        str | None,
        Option(
            help="Path under which a proxy offers the service, such as /remix.",
            show_default="$REMIX_ROOT_PATH",
        ),
    ] = None,
) -> None:
    """Serve a store over HTTP, with a web page. Never writes to the store."""
    from remix.api import serve as run

    run(store, host, port, root_path)


def report(
    run: Annotated[str, Argument(help="Name of a run, or STORE/runs/NAME.")],
    out: Annotated[str, Option(help="Path of the HTML file.")],
    store: NameStore = None,
    json_: Json = False,
) -> None:
    """Write the page of a run as a single HTML file that works offline.

    It holds the pictures of up to 100 samples, first those of the ranked lists.
    """
    from pipeline.storage.store_path import StorePath, without_secrets
    from pipeline.store_names import path_of
    from service.report import write_report

    path = path_of(run, "runs", store=store)
    result, shown = write_report(path, StorePath.at(out)), without_secrets(out)
    say(
        {"out": shown, **result},
        f"{shown}: {result['bytes']} bytes, {result['answers']} responses of the service",
        json_,
    )
