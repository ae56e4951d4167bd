"""Routes of views of single samples: points of a scatter, ranked lists, moves between plans."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import Field

from service import inspection_schemas as api
from service.http.responses import json_response
from service.routes import ERRORS, Epoch, Limit, Name, Start, StoreCatalog, next_page, start_after
from service.store.inspection import MAX_RANKED, SCORED_SPLIT, TESTED_SPLIT, Inspection

router = APIRouter(prefix="/v1/runs/{run}", responses=ERRORS)
Page = TypeVar("Page", bound=api.RankedPage)
NumPoints = Annotated[int, Query(ge=1, le=5000, description="The maximum number of points.")]
OtherEpoch = Annotated[
    Annotated[int, Field(ge=0, lt=10**9)] | Literal["latest"],
    Query(description="The epoch of the second plan, or `latest`."),
]
Modality = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=64,
        description="Rank by the difficulty in this modality. Default: by the mean over the "
        "modalities that the sample has.",
    ),
]
ClassName = Annotated[
    str | None,
    Query(alias="class", max_length=4096, description="Only samples of the class of this name."),
]
Split = Annotated[
    Literal["train", "validation", "test"] | None,
    Query(
        description="Only samples of this split. A list ranks samples of one split, and is empty "
        "with a `reason` for the others."
    ),
]
Ranked = tuple[int, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class ListPart:
    """The query parameters of a ranked list."""

    class_: ClassName = None
    split: Split = None
    start: Start = 0
    limit: Limit = 100


Part = Annotated[ListPart, Depends()]


@router.get(
    "/scores/{epoch}/points",
    operation_id="getScorePoints",
    summary="Get the scores of some samples",
    response_model=api.ScorePoints,
    tags=["scores"],
)
def get_score_points(
    request: Request, catalog: StoreCatalog, run: Name, epoch: Epoch, limit: NumPoints = 5000
) -> Response:
    """Difficulty, correctness and assignment of samples that are chosen by a hash of their row.

    The same samples are chosen in every epoch; all others are counted.
    """
    number = catalog.epoch(run, epoch, "scores")
    return json_response(request, Inspection(catalog, run).points(number, limit))


@router.get(
    "/scores/{epoch}/hardest",
    operation_id="listHardest",
    summary="List the hardest samples of an epoch",
    response_model=api.HardSamples,
    tags=["scores"],
)
def list_hardest(
    request: Request,
    catalog: StoreCatalog,
    run: Name,
    epoch: Epoch,
    part: Part,
    modality: Modality = None,
) -> Response:
    """The scored samples by difficulty, descending."""
    number = catalog.epoch(run, epoch, "scores")
    ranked = Inspection(catalog, run).hardest(number, modality, part.class_, part.start, part.limit)
    return _page(request, api.HardSamples, ranked, SCORED_SPLIT, part, epoch=number)


@router.get(
    "/changes",
    operation_id="listChanged",
    summary="List the samples that changed modality most often",
    response_model=api.ChangedSamples,
    tags=["samples"],
)
def list_changed(request: Request, catalog: StoreCatalog, run: Name, part: Part) -> Response:
    """The planned samples by the number of times that they changed modality between plans.

    Reads all plans of the run once, with 4 bytes of memory per sample of the feature set.
    """
    inspection = Inspection(catalog, run)
    ranked = inspection.changed(part.class_, part.start, part.limit)
    num_plans = len(inspection.run.plans)
    return _page(request, api.ChangedSamples, ranked, SCORED_SPLIT, part, num_plans=num_plans)


@router.get(
    "/mistakes",
    operation_id="listMistakes",
    summary="List the test samples that the fused head gets wrong",
    response_model=api.Mistakes,
    tags=["samples"],
)
def list_mistakes(request: Request, catalog: StoreCatalog, run: Name, part: Part) -> Response:
    """The wrong predictions of the tested epoch, by their probability, descending, then by row.

    The first ones are confident and wrong.
    """
    ranked = Inspection(catalog, run).mistakes(part.class_, part.start, part.limit)
    return _page(request, api.Mistakes, ranked, TESTED_SPLIT, part)


@router.get(
    "/plans/{epoch}/moves",
    operation_id="getPlanMoves",
    summary="Compare two plans",
    response_model=api.PlanMoves,
    tags=["plans"],
)
def get_plan_moves(
    request: Request,
    catalog: StoreCatalog,
    run: Name,
    epoch: Epoch,
    to: OtherEpoch = "latest",
    limit: Limit = 100,
) -> Response:
    """How many samples moved from which modality to which, and some of them, chosen by a hash."""
    numbers = catalog.epoch(run, epoch), catalog.epoch(run, to)
    return json_response(request, Inspection(catalog, run).moves(*numbers, limit))


def _page(
    request: Request, model: type[Page], ranked: Ranked, own: str, part: ListPart, **fields: Any
) -> Response:
    """Respond with a page of a list of samples of the split `own`; empty if another is asked."""
    num_rows, items = ranked
    reason = None
    if part.split not in (None, own):
        num_rows, items = 0, []
        reason = f"This list ranks samples of the split {own!r} only."
    following = start_after(part.start, part.limit, min(num_rows, MAX_RANKED))
    url, headers = next_page(request, following)
    page = model.model_validate(
        {**fields, "num_rows": num_rows, "split": own, "reason": reason, "items": items}
        | {"next": url}
    )
    return json_response(request, page, headers=headers)
