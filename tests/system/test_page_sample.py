"""The page shows what a sample is: a picture or the text of each modality that it has."""

import re
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, expect

from pipeline.features.feature_set import FeatureSet
from tests.support.media_files import encode_clip, write_shard
from tests.support.pages import NEEDS_CHROMIUM, REMIX, visit
from tests.support.serving import serving

pytestmark = NEEDS_CHROMIUM


def test_a_sample_shows_its_pictures(browser: Browser, trained_store: Path) -> None:
    features = FeatureSet.open(trained_store / "features" / "made")
    row = int(np.flatnonzero(features.has.sum(axis=1) == 2)[0])
    has = dict(zip(features.modalities, features.has[row].tolist(), strict=True))
    sample_id = features.ids_of(np.array([row]))[0].as_py()
    with (
        serving(trained_store, token="secret") as url,
        visit(browser, f"{url}/#/runs/{REMIX}?sample={sample_id}", expected="status of") as page,
    ):
        page.get_by_label("Token").fill("secret")
        page.get_by_role("button", name="Continue").click()
        for modality, present in has.items():
            picture = page.get_by_role("img", name=f"{modality} of {sample_id}:")
            expect(picture).to_have_count(1 if present else 0)
            if present:
                expect(picture).to_have_js_property("complete", True)
                assert picture.evaluate("image => image.naturalWidth") >= 96 // 2
                assert picture.get_attribute("src").startswith("blob:")  # type: ignore[union-attr]


def test_a_sample_shows_its_original_clip(
    browser: Browser, trained_store: Path, tmp_path: Path
) -> None:
    samples = {f"{row:03d}": {"mp4": encode_clip(4), "json": b"{}"} for row in range(200)}
    write_shard(tmp_path / "a.tar", samples)
    sample = f"#/runs/{REMIX}?sample=s0007"
    with (
        serving(trained_store, media=True, shards=str(tmp_path)) as url,
        visit(browser, f"{url}/{sample}") as page,
    ):
        video = page.locator("figure.clip video")
        expect(video).to_have_attribute("src", "v1/features/made/rows/7/media/mp4")
        expect(video).to_have_js_property("duration", 0.4)
        expect(page.locator("figure.clip")).to_contain_text("Original clip mp4")
    with (
        serving(trained_store, media=True, shards=str(tmp_path), token="secret") as url,
        visit(browser, f"{url}/{sample}", expected="status of") as page,
    ):
        page.get_by_label("Token").fill("secret")
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("figure.clip video")).to_have_attribute("src", re.compile("^blob:"))
