"""Routes of plans, their statistics and their steps."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from pipeline.errors import InputError, MissingError
from service import plan_schemas as plan_api
from service import schemas as api
from service.http.formats import NESTED, NestedFormat, chosen_format, described
from service.http.responses import json_response, table_response
from service.routes import (
    ERRORS,
    Epoch,
    Limit,
    Name,
    Start,
    StoreCatalog,
    page_response,
    start_after,
)

router = APIRouter(prefix="/v1/runs/{run}/plans", tags=["plans"], responses=ERRORS)
by_fingerprint = APIRouter(prefix="/v1/plans/{fingerprint}", tags=["plans"], responses=ERRORS)
Fingerprint = Annotated[
    str,
    Path(
        pattern="^[0-9a-f]{64}$",
        description="The `fingerprint` of a plan.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    ),
]
NUM_STEPS = 100
StepLimit = Annotated[
    int | None,
    Query(
        ge=1,
        le=1000,
        description=f"The maximum number of steps. Default: {NUM_STEPS} as JSON, else all.",
    ),
]
Modality = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=64,
        description="Only steps that train this modality; `all` for steps that train every one.",
    ),
]


@router.get(
    "",
    operation_id="listPlans",
    summary="List the plans of a run",
    response_model=api.Page[plan_api.PlanSummary | plan_api.DamagedPlan],
)
def list_plans(
    request: Request, catalog: StoreCatalog, run: Name, start: Start = 0, limit: Limit = 100
) -> Response:
    """The plans, by epoch. An unreadable one appears with status `damaged`."""
    epochs = catalog.plans(run)
    items: list[plan_api.PlanSummary | plan_api.DamagedPlan] = []
    for epoch in epochs[start : start + limit]:
        try:
            items.append(plan_api.PlanSummary.model_validate(catalog.plan(run, epoch).model_dump()))
        except InputError as error:
            items.append(plan_api.DamagedPlan(epoch=epoch, error=catalog.reader.public(str(error))))
    return page_response(request, items, start_after(start, limit, len(epochs)))


@router.get(
    "/{epoch}", operation_id="getPlan", summary="Get a plan", response_model=plan_api.PlanDetail
)
def get_plan(request: Request, catalog: StoreCatalog, run: Name, epoch: Epoch) -> Response:
    """The fingerprint of a plan, its settings, and the artifacts that it was made from."""
    return json_response(request, catalog.plan(run, catalog.epoch(run, epoch)))


@router.get(
    "/{epoch}/stats",
    operation_id="getPlanStats",
    summary="Get the statistics of a plan",
    response_model=plan_api.PlanStats,
)
def get_plan_stats(request: Request, catalog: StoreCatalog, run: Name, epoch: Epoch) -> Response:
    """Balance, batch sizes, order, transitions, churn, difficulty and read amplification."""
    return json_response(request, catalog.stats(run, catalog.epoch(run, epoch)))


@router.get(
    "/{epoch}/steps",
    operation_id="listSteps",
    summary="List the steps of a plan",
    response_model=api.Page[plan_api.PlanStep],
    responses=described(NESTED),
)
def list_steps(
    request: Request,
    catalog: StoreCatalog,
    run: Name,
    epoch: Epoch,
    start: Start = 0,
    limit: StepLimit = None,
    modality: Modality = None,
    format_: NestedFormat = None,
) -> Response:
    """The global steps, in order.

    A page of JSON, or an Arrow IPC stream or Parquet, whose schema metadata is that of the plan.
    """
    return _steps(request, catalog, run, catalog.epoch(run, epoch), start, limit, modality)


@by_fingerprint.get(
    "/stats",
    operation_id="getStatsOfPlan",
    summary="Get the statistics of a plan by fingerprint",
    response_model=plan_api.PlanStats,
)
def get_stats_of_plan(
    request: Request, catalog: StoreCatalog, fingerprint: Fingerprint
) -> Response:
    """The statistics of a plan, at a permanent URL that may be cached forever."""
    return json_response(request, catalog.stats(*catalog.plan_of(fingerprint)))


@by_fingerprint.get(
    "/steps",
    operation_id="listStepsOfPlan",
    summary="List the steps of a plan by fingerprint",
    response_model=api.Page[plan_api.PlanStep],
    responses=described(NESTED),
)
def list_steps_of_plan(
    request: Request,
    catalog: StoreCatalog,
    fingerprint: Fingerprint,
    start: Start = 0,
    limit: StepLimit = None,
    modality: Modality = None,
    format_: NestedFormat = None,
) -> Response:
    """The global steps, in order, at a permanent URL that may be cached forever.

    A page of JSON, or an Arrow IPC stream or Parquet.
    """
    return _steps(request, catalog, *catalog.plan_of(fingerprint), start, limit, modality)


def _steps(
    request: Request,
    catalog: StoreCatalog,
    run: str,
    epoch: int,
    start: int,
    limit: int | None,
    modality: str | None,
) -> Response:
    steps = catalog.steps(run, epoch)
    known = catalog.stats(run, epoch).modalities
    if modality is not None and modality not in known:
        raise MissingError(
            f"Modality not in plan {epoch} of run {run!r}: {modality!r}",
            f"Choose from {', '.join(known)}",
        )
    name = chosen_format(request, NESTED)
    if name != "json":
        digest = f"{steps.header.metadata['fingerprint']}-{start}-{limit}-{modality}"
        batches = steps.batches(start, modality, limit)
        return table_response(request, name, steps.header.schema, batches, digest)
    limit = limit or NUM_STEPS
    # one step more than the page: where the next page starts, as a filter skips steps
    rows = [row for batch in steps.batches(start, modality, limit + 1) for row in batch.to_pylist()]
    items = [plan_api.PlanStep.model_construct(**row) for row in rows[:limit]]
    return page_response(request, items, rows[limit]["step"] if len(rows) > limit else None)
