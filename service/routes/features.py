"""Routes of feature sets, their samples, and the samples that were rejected."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

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

router = APIRouter(prefix="/v1/features", tags=["features"], responses=ERRORS)


@router.get(
    "",
    operation_id="listFeatures",
    summary="List feature sets",
    response_model=api.Page[api.FeatureSummary | api.Damage],
)
def list_features(
    request: Request, catalog: StoreCatalog, start: Start = 0, limit: Limit = 100
) -> Response:
    """All finished feature sets, by name. An unreadable one appears with status `damaged`."""
    names = catalog.features()
    items = summaries(
        catalog,
        names[start : start + limit],
        lambda name: api.FeatureSummary.model_validate(catalog.feature_set(name).model_dump()),
    )
    return page_response(request, items, start_after(start, limit, len(names)))


@router.get(
    "/{name}",
    operation_id="getFeatures",
    summary="Get a feature set",
    response_model=api.FeatureDetail,
)
def get_features(request: Request, catalog: StoreCatalog, name: Name) -> Response:
    """Modalities, classes and splits, and the number of rejected samples by reason."""
    return json_response(request, catalog.feature_set(name))


@router.get(
    "/{name}/samples",
    operation_id="listSamples",
    summary="List the samples of a feature set",
    response_model=api.Page[api.SampleSummary],
)
def list_samples(
    request: Request, catalog: StoreCatalog, name: Name, start: Start = 0, limit: Limit = 100
) -> Response:
    """The samples, ordered by row.

    `start` is the row of the first one: `start=ROW&limit=1` resolves a row of a plan to its sample.
    """
    rows, modalities = catalog.samples(name)
    items = [
        api.SampleSummary(**row, has={modality: row[f"has_{modality}"] for modality in modalities})
        for row in rows.items(start, limit)
    ]
    return page_response(request, items, start_after(start, limit, len(rows)))


@router.get(
    "/{name}/rejected",
    operation_id="listRejected",
    summary="List rejected samples",
    response_model=api.Page[api.Rejected],
)
def list_rejected(
    request: Request, catalog: StoreCatalog, name: Name, start: Start = 0, limit: Limit = 100
) -> Response:
    """The samples that could not be decoded, with the reason."""
    rows = catalog.rejected(name)
    items = [api.Rejected.model_validate(row) for row in rows.items(start, limit)]
    return page_response(request, items, start_after(start, limit, len(rows)))
