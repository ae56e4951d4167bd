"""Plans, their statistics and their steps."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from pipeline.errors import InputError, MissingError
from service import schemas as api
from service.http.responses import ARROW, answer, stream, wants_arrow
from service.routes import ERRORS, Epoch, Limit, Name, Start, Store, after, page

router = APIRouter(prefix="/v1/runs/{run}/plans", tags=["plans"], responses=ERRORS)
by_fingerprint = APIRouter(prefix="/v1/plans/{fingerprint}", tags=["plans"], responses=ERRORS)
Fingerprint = Annotated[
    str, Path(pattern="^[0-9a-f]{64}$", description="A plan's fingerprint, from its description.")
]
NUM_STEPS = 100
StepLimit = Annotated[
    int | None,
    Query(
        ge=1,
        le=1000,
        description=f"At most so many steps; by default {NUM_STEPS}, as an Arrow stream all.",
    ),
]
Modality = Annotated[
    str | None,
    Query(
        min_length=1, max_length=64, description='Steps of this modality alone; "all" in warm-up.'
    ),
]
AS_ARROW: dict[int | str, dict[str, Any]] = {
    200: {"content": {ARROW: {"schema": {"type": "string", "format": "binary"}}}}
}


@router.get(
    "", operation_id="listPlans", response_model=api.Page[api.PlanSummary | api.DamagedPlan]
)
def list_plans(
    request: Request, store: Store, run: Name, start: Start = 0, limit: Limit = 100
) -> Response:
    """The plans of a run, by epoch."""
    epochs = store.plans(run)
    items: list[api.PlanSummary | api.DamagedPlan] = []
    for epoch in epochs[start : start + limit]:
        try:
            items.append(api.PlanSummary.model_validate(store.plan(run, epoch).model_dump()))
        except InputError as error:
            items.append(api.DamagedPlan(epoch=epoch, error=store.reader.public(str(error))))
    return page(request, items, after(start, limit, len(epochs)))


@router.get("/{epoch}", operation_id="getPlan", response_model=api.PlanDetail)
def get_plan(request: Request, store: Store, run: Name, epoch: Epoch) -> Response:
    """One plan: its fingerprint, what was asked of it and what it was made from."""
    return answer(request, store.plan(run, epoch))


@router.get("/{epoch}/stats", operation_id="getPlanStats", response_model=api.PlanStats)
def get_plan_stats(request: Request, store: Store, run: Name, epoch: Epoch) -> Response:
    """What the plan does, in numbers: balance, batch sizes, order, transitions, churn, difficulty, read amplification."""
    return answer(request, store.stats(run, epoch))


@router.get(
    "/{epoch}/steps",
    operation_id="listSteps",
    response_model=api.Page[api.PlanStep],
    responses=AS_ARROW,
)
def list_steps(
    request: Request,
    store: Store,
    run: Name,
    epoch: Epoch,
    start: Start = 0,
    limit: StepLimit = None,
    modality: Modality = None,
) -> Response:
    """The global steps in order, a page as JSON, or as one Arrow IPC stream with the plan's metadata (`Accept: application/vnd.apache.arrow.stream`)."""
    return _steps(request, store, run, epoch, start, limit, modality)


@by_fingerprint.get("/stats", operation_id="getStatsOfPlan", response_model=api.PlanStats)
def get_stats_of_plan(request: Request, store: Store, fingerprint: Fingerprint) -> Response:
    """The statistics of the plan of this fingerprint, at an address that never has another."""
    return answer(request, store.stats(*store.plan_of(fingerprint)))


@by_fingerprint.get(
    "/steps",
    operation_id="listStepsOfPlan",
    response_model=api.Page[api.PlanStep],
    responses=AS_ARROW,
)
def list_steps_of_plan(
    request: Request,
    store: Store,
    fingerprint: Fingerprint,
    start: Start = 0,
    limit: StepLimit = None,
    modality: Modality = None,
) -> Response:
    """The steps of the plan of this fingerprint, as those of a run's plan, at an address that never has others."""
    return _steps(request, store, *store.plan_of(fingerprint), start, limit, modality)


def _steps(
    request: Request,
    store: Store,
    run: str,
    epoch: int,
    start: int,
    limit: int | None,
    modality: str | None,
) -> Response:
    steps = store.steps(run, epoch)
    known = store.stats(run, epoch).modalities
    if modality is not None and modality not in known:
        raise MissingError(
            f"plan {epoch} of run {run!r} trains no modality {modality!r}",
            f"it trains {', '.join(known)}",
        )
    if wants_arrow(request):
        digest = f"{steps.header.metadata['fingerprint']}-{start}-{limit}-{modality}"
        return stream(request, steps.header.schema, steps.batches(start, modality, limit), digest)
    limit = limit or NUM_STEPS
    found = [
        step for batch in steps.batches(start, modality, limit + 1) for step in batch.to_pylist()
    ]
    items = [api.PlanStep.model_construct(**step) for step in found[:limit]]
    return page(request, items, found[limit]["step"] if len(found) > limit else None)
