"""The page under conditions: what is damaged, hostile or not there, dark, small or without a mouse, while a run trains, in an outage, and behind a token."""

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from pipeline.storage.arrow_files import write_table
from pipeline.storage.store_path import StorePath
from tests.support.pages import HOSTILE, NEEDS_CHROMIUM, REMIX, copy_run, numbers, ready, visit
from tests.support.serving import serving
from trainer.run_directory import Run

pytestmark = NEEDS_CHROMIUM


def test_a_damaged_run_is_shown_as_such(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}#/runs/broken", expected="status of 5") as page:
        expect(page.get_by_role("alert")).to_contain_text("run.json")


def test_hostile_text_stays_text(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}#/runs/hostile") as page:
        expect(page.get_by_role("alert")).to_contain_text(HOSTILE)
    with visit(browser, f"{url}#/features/made") as page:
        expect(page.get_by_text(f"{HOSTILE}, c1, c2")).to_be_visible()
    with visit(browser, f"{url}#/runs/{HOSTILE}", expected="status of 4") as page:
        expect(page.get_by_role("alert")).to_be_visible()


def test_dark_and_light(browser: Browser, url: str) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    ticks = "document.querySelector('.plot').layout.font.color"
    with visit(browser, f"{url}#/runs/{REMIX}", color_scheme="dark") as page:
        dark = page.evaluate(f"[{background}, {ticks}]")
        page.get_by_label("Theme").select_option("light")
        light = page.evaluate(f"[{background}, {ticks}]")
        page.reload()
        ready(page)
        assert page.evaluate(f"[{background}, {ticks}]") == light
        assert all(a != b for a, b in zip(dark, light, strict=True))
    assert _brightness(dark[0]) < 60 < 200 < _brightness(light[0])


def _brightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


def test_a_phone_scrolls_down_only(browser: Browser, url: str) -> None:
    with visit(browser, url, viewport={"width": 360, "height": 740}, expected="404") as page:
        runs = ["", "runs/fine?sample=s0000", "runs/hostile", "runs/nope"]
        for path in (*runs, "comparisons", "comparisons/demo", "features", "features/made"):
            page.goto(f"{url}#/{path}")
            title = re.compile("^" + re.sub(r".*/|\?.*", "", path or "runs") + "$", re.IGNORECASE)
            expect(page.get_by_role("heading", level=1, name=title)).to_be_visible()
            ready(page)
            assert page.evaluate("document.documentElement.scrollWidth") == 360, path
            boxes = [plot.bounding_box() for plot in page.locator(".plot:visible").all()]
            assert all(box["x"] + box["width"] <= 360 for box in boxes if box), path


def test_the_keyboard_reaches_everything(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}#/runs/fine") as page:
        reachable = "a, button, input, select, summary"
        wanted = page.evaluate(f"document.querySelectorAll('{reachable}').length")
        seen = set()
        focus = """(() => {
            const e = document.activeElement;
            return e === document.body ? null : [e.id, e.tagName, e.getAttribute("aria-label") ?? e.textContent.slice(0, 20), getComputedStyle(e).outlineStyle];
        })()"""
        for _ in range(3 * wanted):
            page.keyboard.press("Tab")
            focused = page.evaluate(focus)
            if focused is None:
                break
            assert focused[3] != "none", f"{focused} has no visible focus"
            seen.add(focused[0] or f"{focused[1]} {focused[2]}")
        texts = {"BUTTON Find", "BUTTON Next", "BUTTON Previous epoch", "SUMMARY Configuration"}
        assert seen >= {"skip", "theme", "epoch", "steps-modality", "sample-id", "A Runs"} | texts
        page.keyboard.press("Tab")
        page.locator("#skip").focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        assert page.url.endswith("#/runs/fine")


def test_a_new_epoch_appears_while_a_run_trains(
    browser: Browser, trained_store: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(trained_store, store)
    whole, run = Run.open(StorePath.at(store / "runs" / REMIX)), copy_run(store, "live")
    run.update(status="running", result=None)
    write_table(run.path / "epochs.arrow", whole.epochs().slice(0, 3).combine_chunks())
    run.plan(3).delete()
    with serving(store) as url, visit(browser, f"{url}/#/runs/live") as page:
        expect(page.locator("output[for=epoch]")).to_have_text("2 of 2")
        page.get_by_role("slider", name="Epoch").press("ArrowLeft")
        expect(page.locator("output[for=epoch]")).to_have_text("1 of 2")
        assert len(numbers(page, "Validation accuracy")) == 3
        page.get_by_role("slider", name="Epoch").focus()
        run.plan(3).write_bytes(whole.plan(3).read_bytes())
        write_table(run.path / "epochs.arrow", whole.epochs().combine_chunks())
        run.update(status="finished", result=whole.metadata["result"])
        expect(page.locator(".badge").first).to_have_text("finished", timeout=20_000)
        expect(page.locator("output[for=epoch]")).to_have_text("1 of 3")
        expect(page.get_by_role("slider", name="Epoch")).to_be_focused()
        assert len(numbers(page, "Validation accuracy")) == 4
        expect(page.locator("#live")).to_have_text(re.compile("finished|4 epochs done"))


def test_an_outage_is_said_and_passes(browser: Browser, url: str) -> None:
    again = "document.dispatchEvent(new Event('visibilitychange'))"
    with visit(browser, url, expected="net::ERR_INTERNET_DISCONNECTED") as page:
        page.context.set_offline(True)
        page.evaluate(again)
        expect(page.locator("#connection")).to_have_text("The service does not answer")
        expect(page.get_by_role("link", name=REMIX)).to_be_visible()
        page.context.set_offline(False)
        page.evaluate(again)
        expect(page.locator("#connection")).to_have_text("")


def test_a_token_is_asked_for_and_kept(browser: Browser, page_store: Path) -> None:
    with (
        serving(page_store, token="open-sesame") as url,
        visit(browser, f"{url}/#/runs/{REMIX}", expected="401") as page,
    ):
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("alert")).to_contain_text("did not take this token")
        page.get_by_label("Token").fill("open-sesame")
        page.get_by_label("Token").press("Enter")
        expect(page.get_by_role("heading", name=REMIX)).to_be_visible()
        page.reload()
        expect(page.get_by_role("heading", name=REMIX)).to_be_visible()
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_an_empty_store_says_how_to_begin(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path) as url, visit(browser, f"{url}/") as page:
        expect(page.get_by_text("The store has no runs yet.")).to_be_visible()
        for name in ("comparisons", "features"):
            page.get_by_role("link", name=name.capitalize()).click()
            expect(page.get_by_text(f"The store has no {name} yet.")).to_be_visible()


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("#/runs/nope", "there is no run 'nope'"),
        ("#/runs/..%2f..", "run"),
        ("#/nowhere", "nothing at /nowhere"),
    ],
)
def test_what_is_not_there_is_said_with_a_way_back(
    browser: Browser, url: str, path: str, detail: str
) -> None:
    with visit(browser, url + path, expected="status of 4") as page:
        expect(page.get_by_role("alert")).to_contain_text(detail)
        page.get_by_role("link", name="Back to the runs").click()
        expect(page.get_by_role("heading", name="Runs")).to_be_visible()
