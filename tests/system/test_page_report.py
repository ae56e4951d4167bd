"""The report in Chromium: a single reproducible file of bounded size that works like the page."""

import re
import shutil
from base64 import b64decode
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.errors import ConfigError, InputError
from pipeline.storage.store_path import StorePath
from service import report_pictures
from service.report import write_report
from service.report_pictures import MAX_PICTURED
from tests.support.pages import MODALITIES, NEEDS_CHROMIUM, cells, get_json, numbers, outside, visit

pytestmark = NEEDS_CHROMIUM
PICTURE = b'/image":"data:image/png;base64,'


def test_a_report_is_the_same_twice_and_bounded(
    page_store: Path, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMIX_TOKEN", "the token in the environment does not apply to the report")
    again = StorePath.at(tmp_path / "again.html")
    outside(lambda: write_report(str(page_store / "runs" / "fine"), again))
    assert again.read_bytes() == report.read_bytes()
    text = report.read_text()
    assert str(page_store) not in text
    assert text.lower().count("</script>") == text.lower().count("<script")
    assert not re.search(r'(?:src|href)="assets/', text)


def test_a_report_of_no_run_is_an_error(page_store: Path, tmp_path: Path) -> None:
    out = StorePath.at(tmp_path / "report.html")
    with pytest.raises(InputError, match="nope"):
        outside(lambda: write_report(str(page_store / "runs" / "nope"), out))
    with pytest.raises(InputError, match=re.escape("run.json")):
        outside(lambda: write_report(str(page_store / "runs" / "broken"), out))
    with pytest.raises(ConfigError, match="features/made"):
        write_report(str(page_store / "features" / "made"), out)
    assert not out.exists()


def test_a_report_is_the_page_in_one_file(browser: Browser, url: str, report: Path) -> None:
    def look(page: Page) -> list[Any]:
        tables = ("Steps", "Moves", "Moved samples", "Hardest samples")
        histograms = [f"histogram-{name}" for name in MODALITIES]
        names = ["accuracy", "share", "seconds", "reliability", "order", "scatter", *histograms]
        shown: list[Any] = [numbers(page, name) for name in names] + [
            page.locator(".tiles").inner_text(),
            *(cells(page.get_by_role("region", name=name, exact=True)) for name in tables),
        ]
        page.get_by_role("button", name="Previous epoch").click()
        expect(page.locator("output[for=epoch]")).to_have_text("2 (0 to 3)")
        return shown + [numbers(page, name) for name in ["order", *histograms]]

    with visit(browser, f"{url}#/runs/fine") as page:
        served = look(page)
    with visit(browser, report.as_uri(), offline=True) as page:
        assert look(page) == served
        page.get_by_role("button", name="Next epoch").click()
        next_page = page.get_by_role("group", name="Pages: Steps").get_by_role(
            "button", name="Next"
        )
        expect(next_page).to_have_attribute("aria-disabled", "true")
        ids = re.findall(r"s\d{4}", page.locator("#sample-hint").inner_text())
        page.get_by_label("Sample id").fill(ids[-1])
        page.get_by_role("button", name="Find").click()
        expect(page.get_by_role("heading", name=ids[-1])).to_be_visible()
        expect(page.get_by_text(f"holds the pictures of {MAX_PICTURED} samples")).to_be_visible()
        expect(page.get_by_text("60 of 260 samples")).to_be_visible()
        page.get_by_label("Sample id").fill("s9999")
        page.get_by_role("button", name="Find").click()
        expect(page.locator("#sample .problem")).to_contain_text("(404)")


def test_a_report_has_the_pictures_of_ranked_samples(
    browser: Browser, url: str, report: Path
) -> None:
    lists = ("scores/3/hardest", "changes", "mistakes")
    first = [get_json(url, f"v1/runs/fine/{name}?limit=1")["items"][0] for name in lists]
    with visit(browser, report.as_uri(), offline=True) as page:
        for sample in first:
            page.get_by_label("Sample id").fill(sample["sample_id"])
            page.get_by_role("button", name="Find").click()
            expect(page.get_by_role("heading", name=sample["sample_id"])).to_be_visible()
            history = get_json(url, f"v1/runs/fine/samples/{sample['sample_id']}")
            names = [name for name in MODALITIES if history["has"][name]]
            pictures = page.locator("#sample .media img")
            expect(pictures).to_have_count(len(names))
            sources = pictures.evaluate_all("images => images.map(image => image.src)")
            modalities = f"{url}v1/features/made/rows/{sample['row']}/modalities"
            served = [httpx.get(f"{modalities}/{name}/image").content for name in names]
            assert [b64decode(source.partition("base64,")[2]) for source in sources] == served


def test_pictures_of_a_report_are_bounded_and_may_be_gone(
    page_store: Path, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def num_pictures(run: Path, name: str) -> int:
        out = StorePath.at(tmp_path / name)
        outside(lambda: write_report(str(run), out))
        return out.read_bytes().count(PICTURE)

    num = report.read_bytes().count(PICTURE)
    with monkeypatch.context() as patch:
        patch.setattr(report_pictures, "MAX_PICTURE_BYTES", 10_000)
        assert 0 < num_pictures(page_store / "runs" / "fine", "bounded.html") < num / 4
    store = shutil.copytree(page_store, tmp_path / "store")
    shutil.rmtree(store / "features" / "made" / "sight")
    assert 0 < num_pictures(store / "runs" / "fine", "damaged.html") < num
    shutil.rmtree(store / "features")
    assert num_pictures(store / "runs" / "fine", "gone.html") == 0
