"""Routes of feature sets, their samples, and the samples that were rejected."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from service import schemas as api
from service.feature_schemas import FeatureRow
from service.http.formats import chosen_format
from service.http.responses import Body, bytes_response, json_response
from service.routes import (
    ERRORS,
    Limit,
    Name,
    RowNumber,
    Start,
    StoreCatalog,
    page_response,
    start_after,
    summaries,
)
from service.store.feature_rows import FeatureRows
from service.store.reader import NAME

router = APIRouter(prefix="/v1/features", tags=["features"], responses=ERRORS)


class PngResponse(Response):
    """A picture."""

    media_type = "image/png"


Modality = Annotated[
    str, Path(pattern=NAME, description="The name of a modality.", examples=["video"])
]


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


@router.get(
    "/{name}/rows/{row}/modalities/{modality}",
    operation_id="getFeatureRow",
    summary="Get the features of a sample in words",
    response_model=FeatureRow,
)
def get_feature_row(
    request: Request, catalog: StoreCatalog, name: Name, row: RowNumber, modality: Modality
) -> Response:
    """Shape, range and text of one sample in one modality, and what its picture shows.

    404 if the sample lacks the modality.
    """
    return json_response(request, FeatureRows(catalog, name).describe(row, modality))


@router.get(
    "/{name}/rows/{row}/modalities/{modality}/image",
    operation_id="getFeatureImage",
    summary="Get the features of a sample as a picture",
    response_class=PngResponse,
    responses={200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}},
)
def get_feature_image(
    request: Request, catalog: StoreCatalog, name: Name, row: RowNumber, modality: Modality
) -> Response:
    """PNG of at most 512 x 512 pixels: frames of a video, an image, a spectrogram or a heat map.

    404 if the sample lacks the modality, and for text.
    """
    chosen_format(request, ["png"])
    picture = Body(FeatureRows(catalog, name).picture(row, modality))
    return bytes_response(request, picture, PngResponse.media_type)
