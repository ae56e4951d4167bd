"""Routes of runs, their epochs and scores, and the history of a sample."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from service import plan_schemas as plan_api
from service import schemas as api
from service.http.responses import json_response
from service.routes import (
    ERRORS,
    Epoch,
    Limit,
    Name,
    Start,
    StoreCatalog,
    page_response,
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


@router.get(
    "",
    operation_id="listRuns",
    summary="List runs",
    response_model=api.Page[api.RunSummary | api.Damage],
)
def list_runs(
    request: Request, catalog: StoreCatalog, start: Start = 0, limit: Limit = 100
) -> Response:
    """All runs, by name. An unreadable one appears with status `damaged`."""
    names = catalog.runs()
    items = summaries(
        catalog,
        names[start : start + limit],
        lambda name: api.RunSummary.model_validate(catalog.run(name).model_dump()),
    )
    return page_response(request, items, start_after(start, limit, len(names)))


@router.get("/{run}", operation_id="getRun", summary="Get a run", response_model=api.RunDetail)
def get_run(request: Request, catalog: StoreCatalog, run: Name) -> Response:
    """Status, configuration and result, and the epochs that have plans and scores."""
    return json_response(request, catalog.run(run))


@router.get(
    "/{run}/epochs",
    operation_id="listEpochs",
    summary="List the epochs of a run",
    response_model=api.Page[api.EpochRow],
)
def list_epochs(
    request: Request, catalog: StoreCatalog, run: Name, start: Start = 0, limit: Limit = 1000
) -> Response:
    """Losses, accuracies, shares and times of the completed epochs."""
    rows = catalog.epochs(run)
    next_start = start_after(start, limit, len(rows))
    return page_response(request, rows[start : start + limit], next_start)


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
    return json_response(request, catalog.histograms(run, epoch, bins))


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
