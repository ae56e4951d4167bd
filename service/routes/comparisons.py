"""Comparisons: methods times seeds."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service import comparison_schemas as comparison_api
from service import schemas as api
from service.http.responses import answer
from service.routes import ERRORS, Limit, Name, Start, Store, after, page, summaries

router = APIRouter(prefix="/v1/comparisons", tags=["comparisons"], responses=ERRORS)


@router.get(
    "",
    operation_id="listComparisons",
    response_model=api.Page[comparison_api.ComparisonSummary | api.Damage],
)
def list_comparisons(
    request: Request, store: Store, start: Start = 0, limit: Limit = 100
) -> Response:
    """The comparisons of the store, by name."""
    names = store.comparisons()

    def read(name: str) -> comparison_api.ComparisonSummary:
        found = store.comparison(name)
        return comparison_api.ComparisonSummary(
            name=name, methods=[each.method for each in found.methods], seeds=found.seeds
        )

    items = summaries(store, names[start : start + limit], read)
    return page(request, items, after(start, limit, len(names)))


@router.get("/{name}", operation_id="getComparison", response_model=comparison_api.ComparisonDetail)
def get_comparison(request: Request, store: Store, name: Name) -> Response:
    """One comparison: test accuracy of each method over seeds, and the tests between each pair."""
    return answer(request, store.comparison(name))


@router.get(
    "/{name}/curves", operation_id="listCurves", response_model=api.Page[comparison_api.CurvePoint]
)
def list_curves(
    request: Request, store: Store, name: Name, start: Start = 0, limit: Limit = 1000
) -> Response:
    """Accuracy and shares of every epoch of every run of the comparison."""
    points = store.curves(name)
    return page(request, points[start : start + limit], after(start, limit, len(points)))
