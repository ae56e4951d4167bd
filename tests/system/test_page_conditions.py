"""The web page with damaged, hostile and missing data, themes, small screens, keyboards and tokens.

Also: while a run trains, and while the service is down.
"""

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.storage.arrow_files import write_table
from pipeline.storage.store_path import StorePath
from tests.support.pages import (
    HOSTILE,
    NEEDS_CHROMIUM,
    REMIX,
    copy_run,
    figure,
    numbers,
    ready,
    visit,
)
from tests.support.prefix_proxy import proxied
from tests.support.serving import serving
from trainer.run_directory import Run

pytestmark = NEEDS_CHROMIUM


def test_a_damaged_run_shows_the_damaged_file(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}#/runs/broken", expected="status of 5") as page:
        expect(page.get_by_role("alert")).to_contain_text("run.json")


def test_a_run_whose_features_were_deleted_says_so_once(
    browser: Browser, trained_store: Path, tmp_path: Path
) -> None:
    store = shutil.copytree(trained_store, tmp_path / "store")
    shutil.rmtree(store / "features")
    screen = {"width": 1024, "height": 768}
    with (
        serving(store) as url,
        visit(browser, f"{url}/#/runs/{REMIX}", expected="404", viewport=screen) as page,
    ):
        expect(page.locator(".problem")).to_have_count(1)
        expect(page.locator(".problem")).to_contain_text("made")
        expect(page.get_by_role("heading", name="Plan of one epoch")).to_be_visible()
        titles = ["Training", "Test predictions", "Plan", "Configuration"]
        expect(page.locator(".tabs a")).to_have_text(titles)
        table = page.get_by_role("region", name="Calibration of the heads")
        assert table.evaluate("table => table.scrollWidth <= table.clientWidth")


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


def tabbed(page: Page) -> set[str]:
    """Ids, or tags with labels, that Tab reaches; asserts that each shows its focus."""
    reachable = "a, button, input, select, summary"
    wanted = page.evaluate(f"document.querySelectorAll('{reachable}').length")
    seen = set()
    focus = """(() => {
        const e = document.activeElement;
        if (e === document.body) return null;
        const text = e.getAttribute("aria-label") ?? e.textContent.slice(0, 20);
        return [e.id, e.tagName, text, getComputedStyle(e).outlineStyle];
    })()"""
    for _ in range(3 * wanted):
        page.keyboard.press("Tab")
        focused = page.evaluate(focus)
        if focused is None:
            break
        assert focused[3] != "none", f"{focused} has no visible focus"
        seen.add(focused[0] or f"{focused[1]} {focused[2]}")
    return seen


def test_the_keyboard_reaches_everything(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        expected = {f"filter-{name}" for name in ("status", "method", "features")}
        expected |= {"by-comparison", "overlay", f"INPUT Select {REMIX}", "A fine"}
        expected |= {f"BUTTON {name}" for name in ("run", "test accuracy", "updated")}
        assert tabbed(page) >= expected
        page.goto("about:blank")
        page.goto(f"{url}#/runs/fine")
        ready(page)
        ids = ["skip", "theme", "epoch", "steps-modality", "scatter-x", "scatter-y", "moves-epoch"]
        ids += ["sample-id", "samples-list", "samples-modality", "samples-class", "samples-split"]
        texts = {"BUTTON Find", "BUTTON Next", "BUTTON Previous epoch", "SUMMARY Configuration"}
        texts |= {"A Runs", "A Test predictions", "A Plan", "BUTTON sight", "BUTTON samples"}
        assert tabbed(page) >= {*ids, *texts, "BUTTON assembled, sight"}
        page.keyboard.press("Tab")
        page.locator("#skip").focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        assert page.url.endswith("#/runs/fine")


def test_the_first_view_of_a_run_needs_no_charts(browser: Browser, url: str) -> None:
    """Numbers come before the chart library, in few bytes, and without it if it does not load."""
    with visit(browser, url, expected="net::ERR_FAILED") as page:
        page.route("**/plotly.min.js", lambda route: route.abort())
        page.goto("about:blank")
        page.goto(f"{url}#/runs/fine")
        ready(page)
        assert page.locator("[data-tile=best] dd").is_visible()
        expect(figure(page, "accuracy").locator(".nothing")).to_contain_text("plotly.min.js")
        assert len(numbers(page, "accuracy")) == 4
        sizes = page.evaluate("performance.getEntriesByType('resource').map(e => e.transferSize)")
        assert 20_000 < sum(sizes) < 600_000


@pytest.mark.parametrize("streams", [1, 0])
def test_a_new_epoch_appears_while_a_run_trains(
    browser: Browser, trained_store: Path, tmp_path: Path, streams: int
) -> None:
    """By events, through a proxy, or by polling if the service has no stream for the page."""
    store = tmp_path / "store"
    shutil.copytree(trained_store, store)
    complete, run = Run.open(StorePath.at(store / "runs" / REMIX)), copy_run(store, "live")
    run.update(status="running", result=None)
    write_table(run.path / "epochs.arrow", complete.epochs().slice(0, 3).combine_chunks())
    run.plan(3).delete()
    with (
        serving(store, max_event_streams=streams, token="secret") as url,
        proxied(url, header=True) as proxy,
        visit(browser, f"{proxy}/remix/#/runs/live", expected="status of") as page,
    ):
        page.get_by_label("Token").fill("secret")
        with page.expect_response("**/remix/v1/runs/live/events") as stream:
            page.get_by_role("button", name="Continue").click()
        assert stream.value.status == (200 if streams else 503)
        expect(page.locator("output[for=epoch]")).to_have_text("2 (0 to 2)")
        if streams:
            polls: list[str] = []
            page.on("request", lambda request: polls.append(request.url))
            page.wait_for_timeout(4500)  # more than twice as long as between two polls
            assert len([poll for poll in polls if poll.endswith("/runs/live")]) <= 1
        page.get_by_role("slider", name="Epoch").press("ArrowLeft")
        expect(page.locator("output[for=epoch]")).to_have_text("1 (0 to 2)")
        assert len(numbers(page, "accuracy")) == 3
        page.get_by_role("slider", name="Epoch").focus()
        run.plan(3).write_bytes(complete.plan(3).read_bytes())
        write_table(run.path / "epochs.arrow", complete.epochs().combine_chunks())
        run.update(status="finished", result=complete.metadata["result"])
        expect(page.locator(".badge").first).to_have_text("finished", timeout=20_000)
        expect(page.locator("output[for=epoch]")).to_have_text("1 (0 to 3)")
        expect(page.get_by_role("slider", name="Epoch")).to_be_focused()
        assert len(numbers(page, "accuracy")) == 4
        expect(page.locator("#live")).to_have_text(re.compile("finished|4 epochs"))


def test_an_outage_is_reported_until_the_service_responds(browser: Browser, url: str) -> None:
    refresh = "document.dispatchEvent(new Event('visibilitychange'))"
    with visit(browser, url, expected="net::ERR_INTERNET_DISCONNECTED") as page:
        page.context.set_offline(True)
        page.evaluate(refresh)
        expect(page.locator("#connection")).to_have_text(re.compile("service"))
        expect(page.get_by_role("link", name=REMIX)).to_be_visible()
        page.context.set_offline(False)
        page.evaluate(refresh)
        expect(page.locator("#connection")).to_have_text("")


def test_a_token_is_requested_and_kept(browser: Browser, page_store: Path) -> None:
    with (
        serving(page_store, token="open-sesame") as url,
        visit(browser, f"{url}/#/runs/{REMIX}", expected="401") as page,
    ):
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("alert")).to_be_visible()
        page.get_by_label("Token").fill("open-sesame")
        page.get_by_label("Token").press("Enter")
        expect(page.get_by_role("heading", name=REMIX)).to_be_visible()
        page.reload()
        expect(page.get_by_role("heading", name=REMIX)).to_be_visible()
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_an_empty_store_shows_the_command_to_begin_with(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path) as url, visit(browser, f"{url}/") as page:
        expect(page.get_by_text("remix train")).to_be_visible()
        for name, command in (("comparisons", "remix compare"), ("features", "remix decode")):
            page.get_by_role("link", name=name.capitalize()).click()
            expect(page.get_by_text(command)).to_be_visible()


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("#/runs/nope", "nope"),
        ("#/runs/..%2f..", "run"),
        ("#/nowhere", "/nowhere"),
    ],
)
def test_missing_pages_show_an_error_and_a_link_back(
    browser: Browser, url: str, path: str, detail: str
) -> None:
    with visit(browser, url + path, expected="status of 4") as page:
        expect(page.get_by_role("alert")).to_contain_text(detail)
        page.locator("#main .problem a").click()
        expect(page.get_by_role("heading", name="Runs")).to_be_visible()
