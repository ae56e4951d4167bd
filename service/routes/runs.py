"""Runs, their epochs, and the stories of their samples."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from service import schemas as api
from service.http.responses import answer
from service.routes import ERRORS, Epoch, Limit, Name, Start, Store, after, page, summaries

router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=ERRORS)
Bins = Annotated[int, Query(ge=1, le=1000, description="The number of bins.")]
SampleId = Annotated[
    str,
    Path(
        max_length=4096,
        description="As it stands in samples.arrow; it may have slashes.",
        examples=["sample-000017"],
    ),
]


@router.get("", operation_id="listRuns", response_model=api.Page[api.RunSummary | api.Damage])
def list_runs(request: Request, store: Store, start: Start = 0, limit: Limit = 100) -> Response:
    """The runs of the store, by name."""
    names = store.runs()
    items = summaries(
        store,
        names[start : start + limit],
        lambda name: api.RunSummary.model_validate(store.run(name).model_dump()),
    )
    return page(request, items, after(start, limit, len(names)))


@router.get("/{run}", operation_id="getRun", response_model=api.RunDetail)
def get_run(request: Request, store: Store, run: Name) -> Response:
    """One run: status, configuration, result, and the epochs that have plans and scores."""
    return answer(request, store.run(run))


@router.get("/{run}/epochs", operation_id="listEpochs", response_model=api.Page[api.EpochRow])
def list_epochs(
    request: Request, store: Store, run: Name, start: Start = 0, limit: Limit = 1000
) -> Response:
    """Losses, accuracies (fused and of each modality), shares and times of the epochs that are done."""
    rows = store.epochs(run)
    return page(request, rows[start : start + limit], after(start, limit, len(rows)))


@router.get(
    "/{run}/scores/{epoch}/histogram",
    operation_id="getHistogram",
    response_model=api.ScoreHistograms,
    tags=["scores"],
)
def get_histogram(
    request: Request, store: Store, run: Name, epoch: Epoch, bins: Bins = 20
) -> Response:
    """How able the model was on each modality of the samples, and how difficult they were."""
    return answer(request, store.histograms(run, epoch, bins))


@router.get(
    "/{run}/samples/{sample_id:path}",
    operation_id="getSample",
    response_model=api.SampleHistory,
    tags=["samples"],
)
def get_sample(request: Request, store: Store, run: Name, sample_id: SampleId) -> Response:
    """A sample's difficulty and assignment through the epochs."""
    return answer(request, store.sample(run, sample_id))
