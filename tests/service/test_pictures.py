"""Features of a sample: their description, and their picture as PNG."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from pipeline.features.feature_set import FeatureSet
from service.store.pictures import picture_of
from tests.support.http_client import get
from tests.support.serving import serving
from tests.support.stores import make_features
from tests.support.trained_run import edit_json

SHAPES = {
    "film": ((20, 3, 8, 16), "uint8"),
    "noise": ((1, 700, 40), "float16"),
    "words": ((8,), "int16"),
    "vector": ((5,), "float32"),
}
KINDS = {"film": "video", "noise": "audio", "words": "text", "vector": "tensor"}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    folder = tmp_path_factory.mktemp("pictures") / "features" / "made"
    made = make_features(folder, SHAPES, num_rows=150, num_parts=2, missing=0.3)
    entries = {name: {**made.manifest["modalities"][name], "kind": KINDS[name]} for name in KINDS}
    edit_json(folder / "manifest.json", modalities=entries)
    return FeatureSet.open(folder)


@pytest.fixture(scope="module")
def rows(features: FeatureSet) -> Iterator[httpx.Client]:
    store = Path(features.path.path).parents[1]
    with serving(store) as url, httpx.Client(base_url=f"{url}/v1/features/made/rows/") as client:
        yield client


def row_with(features: FeatureSet, modality: str, *, has: bool = True, after: int = 80) -> int:
    column = features.has[:, features.modalities.index(modality)]
    return int(np.flatnonzero(column[after:] == has)[0]) + after


def image(client: httpx.Client, url: str) -> Image.Image:
    response = client.get(f"{url}/image")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    assert "content-encoding" not in response.headers
    return Image.open(io.BytesIO(response.content))


def test_a_video_is_a_sheet_of_its_frames(rows: httpx.Client, features: FeatureSet) -> None:
    row = row_with(features, "film")
    described = get(rows, f"{row}/modalities/film")
    picture = np.asarray(image(rows, f"{row}/modalities/film"))
    # 12 frames of 8 x 16 pixels in 6 rows and 2 columns, enlarged by 2
    assert picture.shape == (described["height"], described["width"], 3) == (96, 64, 3)
    assert described["picture"] == "12 of 20 frames, in order"
    first = features.read("film", [row])[0, 0].transpose(1, 2, 0)
    assert np.array_equal(picture[:16:2, :32:2], first)


def test_a_spectrogram_is_at_most_512_pixels_high(rows: httpx.Client, features: FeatureSet) -> None:
    row = row_with(features, "noise")
    described = get(rows, f"{row}/modalities/noise")
    values = features.read("noise", [row])[0].astype(float)
    assert (described["shape"], described["dtype"]) == ([1, 700, 40], "float16")
    assert (described["low"], described["high"]) == (values.min(), values.max())
    assert "spectrogram" in described["picture"]
    assert image(rows, f"{row}/modalities/noise").size == (40, 512)


def test_pixels_are_those_of_the_features() -> None:
    frame = np.arange(3 * 120 * 100, dtype=np.uint8).reshape(3, 120, 100)
    assert np.array_equal(picture_of("image", frame).pixels, frame.transpose(1, 2, 0))
    frames = np.stack([np.full((3, 60, 60), value, np.uint8) for value in (1, 2, 3, 4)])
    sheet = picture_of("video", frames).pixels
    assert sheet.shape == (120, 120, 3)
    corners = [sheet[0, 0, 0], sheet[0, -1, 0], sheet[-1, 0, 0], sheet[-1, -1, 0]]
    assert corners == [1, 2, 3, 4]
    # lowest frequency at the bottom; low is black, high is light yellow, not finite is grey
    heat = picture_of("audio", np.array([[0.0, 1.0], [np.nan, 0.5]])).pixels
    assert heat[0, 0].tolist() == [128, 128, 128]
    assert (heat[-1, 0].tolist(), heat[-1, -1].tolist()) == ([0, 0, 4], [252, 255, 164])
    assert picture_of("tensor", np.full(7, 2.0)).pixels.max() == 4


def test_any_features_have_a_picture_of_bounded_size() -> None:
    for shape in ((), (1,), (100_000,), (3, 2000), (2, 3, 4, 5, 6), (40, 3, 300, 10), (1, 1, 1, 1)):
        for kind in ("video", "image", "audio", "tensor"):
            pixels = picture_of(kind, np.ones(shape, np.float32)).pixels
            assert pixels.ndim == 3
            assert min(pixels.shape[:2]) >= 1 and max(pixels.shape[:2]) <= 512, (shape, kind)


def test_an_unchanged_picture_is_not_sent_again(rows: httpx.Client, features: FeatureSet) -> None:
    url = f"{row_with(features, 'vector')}/modalities/vector/image"
    etag = rows.get(url).headers["etag"]
    assert rows.get(url, headers={"If-None-Match": etag}).status_code == 304
    other = f"{row_with(features, 'vector', after=90)}/modalities/vector/image"
    assert rows.get(other, headers={"If-None-Match": etag}).status_code == 200
    assert rows.get(url, headers={"Accept": "text/html"}).status_code == 406


def test_what_is_absent_is_named(rows: httpx.Client, features: FeatureSet) -> None:
    lacking = row_with(features, "vector", has=False)
    text = row_with(features, "words")
    for url, named in (
        (f"{lacking}/modalities/vector/image", "'vector'"),
        (f"{lacking}/modalities/smell", "'smell'"),
        ("150/modalities/film", "150"),
        (f"{text}/modalities/words/image", "Text"),
    ):
        assert named in get(rows, url, 404)["detail"]
    described = get(rows, f"{text}/modalities/words")
    assert described["text"] is not None and described["picture"] is None
