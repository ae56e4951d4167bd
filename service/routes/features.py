"""Feature sets, and the samples that could not be used."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service import schemas as api
from service.http.responses import answer
from service.routes import ERRORS, Limit, Name, Start, Store, after, page, summaries

router = APIRouter(prefix="/v1/features", tags=["features"], responses=ERRORS)


@router.get(
    "", operation_id="listFeatures", response_model=api.Page[api.FeatureSummary | api.Damage]
)
def list_features(request: Request, store: Store, start: Start = 0, limit: Limit = 100) -> Response:
    """The finished feature sets of the store."""
    names = store.features()
    items = summaries(
        store,
        names[start : start + limit],
        lambda name: api.FeatureSummary.model_validate(store.feature_set(name).model_dump()),
    )
    return page(request, items, after(start, limit, len(names)))


@router.get("/{name}", operation_id="getFeatures", response_model=api.FeatureDetail)
def get_features(request: Request, store: Store, name: Name) -> Response:
    """One feature set: its modalities, classes and splits, and how many samples were rejected for which reasons."""
    return answer(request, store.feature_set(name))


@router.get(
    "/{name}/samples", operation_id="listSamples", response_model=api.Page[api.SampleSummary]
)
def list_samples(
    request: Request, store: Store, name: Name, start: Start = 0, limit: Limit = 100
) -> Response:
    """The samples by row, so that `start` is the row of the first: from a row of a plan to its sample_id."""
    rows, modalities = store.samples(name)
    items = [
        api.SampleSummary(**row, has={modality: row[f"has_{modality}"] for modality in modalities})
        for row in rows.items(start, limit)
    ]
    return page(request, items, after(start, limit, len(rows)))


@router.get("/{name}/rejected", operation_id="listRejected", response_model=api.Page[api.Rejected])
def list_rejected(
    request: Request, store: Store, name: Name, start: Start = 0, limit: Limit = 100
) -> Response:
    """The samples that could not be decoded, and why."""
    rows = store.rejected(name)
    items = [api.Rejected.model_validate(row) for row in rows.items(start, limit)]
    return page(request, items, after(start, limit, len(rows)))
