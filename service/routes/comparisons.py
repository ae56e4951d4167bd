"""Routes of comparisons."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service import comparison_schemas as comparison_api
from service import schemas as api
from service.http.responses import json_response
from service.routes import (
    ERRORS,
    Limit,
    Name,
    Start,
    StoreCatalog,
    page_response,
    start_after,
    summaries,
)

router = APIRouter(prefix="/v1/comparisons", tags=["comparisons"], responses=ERRORS)


@router.get(
    "",
    operation_id="listComparisons",
    summary="List comparisons",
    response_model=api.Page[comparison_api.ComparisonSummary | api.Damage],
)
def list_comparisons(
    request: Request, catalog: StoreCatalog, start: Start = 0, limit: Limit = 100
) -> Response:
    """All finished comparisons, by name. An unreadable one appears with status `damaged`."""
    names = catalog.comparisons()

    def read(name: str) -> comparison_api.ComparisonSummary:
        detail = catalog.comparison(name)
        return comparison_api.ComparisonSummary(
            name=name, methods=[result.method for result in detail.methods], seeds=detail.seeds
        )

    items = summaries(catalog, names[start : start + limit], read)
    return page_response(request, items, start_after(start, limit, len(names)))


@router.get(
    "/{name}",
    operation_id="getComparison",
    summary="Get a comparison",
    response_model=comparison_api.ComparisonDetail,
)
def get_comparison(request: Request, catalog: StoreCatalog, name: Name) -> Response:
    """Test accuracy and cost of each method over seeds, tests between methods, and a verdict."""
    return json_response(request, catalog.comparison(name))


@router.get(
    "/{name}/curves",
    operation_id="listCurves",
    summary="List the epochs of a comparison",
    response_model=api.Page[comparison_api.CurvePoint],
)
def list_curves(
    request: Request, catalog: StoreCatalog, name: Name, start: Start = 0, limit: Limit = 1000
) -> Response:
    """Validation accuracy and shares in every epoch of every run of the comparison."""
    points = catalog.curves(name)
    next_start = start_after(start, limit, len(points))
    return page_response(request, points[start : start + limit], next_start)
