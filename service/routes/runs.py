"""Routes of runs, their epochs and scores, and the history of a sample."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import JsonValue

from service import plan_schemas as plan_api
from service import schemas as api
from service.http.formats import FLAT, FlatFormat, chosen_format, described
from service.http.responses import json_response
from service.routes import (
    ERRORS,
    NUM_TABLE_ROWS,
    Epoch,
    Fields,
    Limit,
    Name,
    Start,
    StoreCatalog,
    TableLimit,
    page_response,
    rows_response,
    start_after,
    summaries,
)

router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=ERRORS)
Bins = Annotated[int, Query(ge=1, le=1000, description="The number of bins.")]
SampleId = Annotated[
    str,
    Path(
        max_length=4096,
        description="The id of a sample in the run's feature set. It may contain slashes.",
        examples=["sample-000017"],
    ),
]


Status = Annotated[
    Literal["created", "running", "finished", "interrupted", "failed", "damaged"] | None,
    Query(description="Only runs in this state."),
]
Method = Annotated[
    str | None, Query(min_length=1, max_length=200, description="Only runs of this method.")
]
FeaturesName = Annotated[
    str | None, Query(min_length=1, max_length=64, description="Only runs on this feature set.")
]
Sort = Annotated[
    Literal["name", "-name", "updated", "-updated", "accuracy", "-accuracy"],
    Query(
        description="The order: by name, by the last change, or by the test accuracy of the fused "
        "head; descending with a minus. Runs without the value come last."
    ),
]
SORT_KEYS: dict[str, Callable[[api.RunSummary], Any]] = {
    "name": lambda run: run.name,
    "updated": lambda run: run.updated,
    "accuracy": lambda run: (run.test_accuracy or {}).get("fused"),
}


@router.get(
    "",
    operation_id="listRuns",
    summary="List runs",
    response_model=api.Page[api.RunSummary | api.Damage],
)
def list_runs(
    request: Request,
    catalog: StoreCatalog,
    start: Start = 0,
    limit: Limit = 100,
    status: Status = None,
    method: Method = None,
    features: FeaturesName = None,
    sort: Sort = "name",
) -> Response:
    """The runs that match all filters. An unreadable one appears with status `damaged`.

    With filters, or sorted by anything but the name, every run of the store is read.
    """
    names = catalog.runs()

    def read(name: str) -> api.RunSummary:
        return api.RunSummary.model_validate(catalog.run(name).model_dump())

    if (status, method, features, sort) == (None, None, None, "name"):
        items = summaries(catalog, names[start : start + limit], read)
        return page_response(request, items, start_after(start, limit, len(names)))
    chosen = [
        run
        for run in summaries(catalog, names, read)
        if _matches(run, status=status, method=method, features=features)
    ]
    next_start = start_after(start, limit, len(chosen))
    return page_response(request, _sorted(chosen, sort)[start : start + limit], next_start)


def _sorted(
    runs: Sequence[api.RunSummary | api.Damage], sort: str
) -> list[api.RunSummary | api.Damage]:
    """Runs in an order; those without the value that decides come last, by name."""
    keys: list[Any] = [
        SORT_KEYS[sort.removeprefix("-")](run) if isinstance(run, api.RunSummary) else None
        for run in runs
    ]
    order = sorted(
        (i for i, key in enumerate(keys) if key is not None),
        key=lambda i: keys[i],
        reverse=sort.startswith("-"),
    )
    return [runs[i] for i in [*order, *(i for i, key in enumerate(keys) if key is None)]]


def _matches(
    run: api.RunSummary | api.Damage,
    *,
    status: str | None,
    method: str | None,
    features: str | None,
) -> bool:
    if isinstance(run, api.Damage):
        return status in (None, run.status) and (method, features) == (None, None)
    asked = ((status, run.status), (method, run.method), (features, run.features.name))
    return all(wanted in (None, value) for wanted, value in asked)


@router.get("/{run}", operation_id="getRun", summary="Get a run", response_model=api.RunDetail)
def get_run(request: Request, catalog: StoreCatalog, run: Name) -> Response:
    """Status, configuration and result, and the epochs that have plans and scores."""
    return json_response(request, catalog.run(run))


@router.get(
    "/{run}/epochs",
    operation_id="listEpochs",
    summary="List the epochs of a run",
    response_model=api.Page[api.EpochRow] | api.Page[dict[str, JsonValue]],
    responses=described(FLAT),
)
def list_epochs(
    request: Request,
    catalog: StoreCatalog,
    run: Name,
    start: Start = 0,
    limit: TableLimit = None,
    fields: Fields = None,
    format_: FlatFormat = None,
) -> Response:
    """Losses, accuracies, shares and times of the completed epochs.

    As Arrow, Parquet or CSV, and with `fields`, the columns of epochs.arrow.
    """
    name = chosen_format(request, FLAT)
    if fields or name != "json":
        return rows_response(request, catalog.epoch_table(run), name, fields, start, limit)
    rows, limit = catalog.epochs(run), limit or NUM_TABLE_ROWS
    next_start = start_after(start, limit, len(rows))
    return page_response(request, rows[start : start + limit], next_start)


@router.get(
    "/{run}/scores/{epoch}",
    operation_id="listScores",
    summary="List the scores of an epoch",
    response_model=api.Page[dict[str, JsonValue]],
    responses=described(FLAT),
    tags=["scores"],
)
def list_scores(
    request: Request,
    catalog: StoreCatalog,
    run: Name,
    epoch: Epoch,
    start: Start = 0,
    limit: TableLimit = None,
    fields: Fields = None,
    format_: FlatFormat = None,
) -> Response:
    """The scored samples, with the ability, prediction and label probability of each modality."""
    table = catalog.score_table(run, catalog.epoch(run, epoch, "scores"))
    return rows_response(request, table, chosen_format(request, FLAT), fields, start, limit)


@router.get(
    "/{run}/scores/{epoch}/histogram",
    operation_id="getHistogram",
    summary="Get histograms of ability and difficulty",
    response_model=plan_api.ScoreHistograms,
    tags=["scores"],
)
def get_histogram(
    request: Request, catalog: StoreCatalog, run: Name, epoch: Epoch, bins: Bins = 20
) -> Response:
    """How many training samples have which ability and difficulty in each modality."""
    number = catalog.epoch(run, epoch, "scores")
    return json_response(request, catalog.histograms(run, number, bins))


@router.get(
    "/{run}/samples/{sample_id:path}",
    operation_id="getSample",
    summary="Get the history of a sample",
    response_model=api.SampleHistory,
    tags=["samples"],
)
def get_sample(request: Request, catalog: StoreCatalog, run: Name, sample_id: SampleId) -> Response:
    """The scores of one sample and the modality that it trained, epoch by epoch."""
    return json_response(request, catalog.sample(run, sample_id))
