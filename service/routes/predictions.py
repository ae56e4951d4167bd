"""Routes of the test predictions of a run."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from service import prediction_schemas as predictions_api
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
)
from service.store.predictions import read_counts

router = APIRouter(prefix="/v1/runs/{run}/predictions", tags=["predictions"], responses=ERRORS)
NUM_BINS = 10
Bins = Annotated[int, Query(ge=1, le=100, description="The number of bins of confidence.")]


@router.get(
    "",
    operation_id="getReliability",
    summary="Get the reliability of a run's test predictions",
    response_model=predictions_api.Reliability,
)
def get_reliability(
    request: Request, catalog: StoreCatalog, run: Name, bins: Bins = NUM_BINS
) -> Response:
    """Accuracy against confidence of each head on the test split, and the calibration error."""
    return json_response(request, read_counts(catalog, run, bins).reliability())


@router.get(
    "/classes",
    operation_id="listClassResults",
    summary="List the test accuracy of a run by class",
    response_model=api.Page[predictions_api.ClassResult],
)
def list_class_results(
    request: Request, catalog: StoreCatalog, run: Name, start: Start = 0, limit: Limit = 100
) -> Response:
    """The number of test samples of each class, and how many each head predicts correctly."""
    counts = read_counts(catalog, run, NUM_BINS)
    items = counts.class_results(start, limit)
    return page_response(request, items, start_after(start, limit, counts.classes.shape[2]))
