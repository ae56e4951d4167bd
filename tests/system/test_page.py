"""The page and the report in real Chromium: they show what the API says, they live, they bear a hostile store, and a keyboard and a phone suffice."""

import concurrent.futures
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from pipeline.config import PlanConfig
from pipeline.errors import ConfigError, InputError
from pipeline.features.feature_set import FeatureSet, write_table
from pipeline.features.id_index import write_step_index
from pipeline.plans.plan import BatchPlan, remix_plan, write_plan
from pipeline.plans.stats import plan_statistics
from pipeline.scores.table import Scores
from pipeline.storage.schemas import REJECTED
from pipeline.storage.store_path import MANIFEST, Place
from service.report import write_report
from tests.support.serving import serving
from trainer.run_directory import Run

expect.set_options(timeout=20_000)  # a busy machine draws late
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
)
REMIX = "demo-remix-seed0"
HOSTILE = "<img src=x onerror=\"window.pwned='yes'\"></script><script>window.pwned='yes'</script>"
DASH, MINUS = "\u2013", "\u2212"
MODALITIES = ["sound", "sight", "touch"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # not for the whole session: Playwright's loop, while it runs, forbids asyncio.run() in this thread
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def store(trained_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained store, and in it a plan of many steps, a failed run that says hostile things, a damaged run, and features with rejected samples."""
    store = tmp_path_factory.mktemp("page") / "store"
    shutil.copytree(trained_store, store)
    _replan(
        _copy_run(store, "fine"),
        FeatureSet.open(Place.at(store / "features" / "made")),
        batch_size=2,
    )
    _copy_run(store, "hostile").update(status="failed", error=HOSTILE)
    _copy_run(store, "broken")
    (store / "runs" / "broken" / "run.json").write_text(f'{{"name": "{HOSTILE}')
    _reject(store / "features" / "made", 60)
    return store


@pytest.fixture(scope="module")
def url(store: Path) -> Iterator[str]:
    with serving(store) as found:
        yield f"{found}/"


@pytest.fixture(scope="module")
def report(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    _outside(lambda: write_report(str(store / "runs" / "fine"), Place.at(out)))
    return out


def _outside(work: Callable[[], Any]) -> Any:
    """Runs something that needs an event loop of its own."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return pool.submit(work).result()


def _copy_run(store: Path, name: str) -> Run:
    shutil.copytree(store / "runs" / REMIX, store / "runs" / name)
    run = Run.open(Place.at(store / "runs" / name))
    run.update(name=name)
    return run


def _replan(run: Run, features: FeatureSet, batch_size: int) -> None:
    """Plans the last epoch again, in small batches."""
    scores = Scores.open(run.scores(3))
    plan = remix_plan(
        scores, PlanConfig(order="interleaved"), batch_size, 0, 3, num_classes=len(features.classes)
    )
    write_plan(run.plan(3), plan)
    run.plan_stats(3).write_json(
        plan_statistics(
            plan, labels=features.labels, scores=scores, previous=BatchPlan.open(run.plan(2))
        )
    )
    write_step_index(run.plan_index(3), plan, features.num_rows)


def _reject(features: Path, num: int) -> None:
    rows = [
        {
            "shard": "a.tar",
            "sample_id": f"lost{i}{HOSTILE}",
            "stage": "decode",
            "reason": "truncated",
            "error": f"cut at byte {i}",
        }
        for i in range(num)
    ]
    write_table(Place.at(features / "rejected.arrow"), pa.Table.from_pylist(rows, schema=REJECTED))
    manifest = json.loads((features / MANIFEST).read_text())
    manifest |= {
        "num_rejected": num,
        "reasons": {"truncated": num},
        "classes": [HOSTILE, *manifest["classes"][1:]],
    }
    (features / MANIFEST).write_text(json.dumps(manifest))


def ask(url: str, path: str) -> Any:
    answer = httpx.get(url + path)
    assert answer.status_code == 200, answer.text
    return answer.json()


@contextmanager
def visit(browser: Browser, url: str, *, expected: str = "", **context: Any) -> Iterator[Page]:
    """Opens the page, and asserts at the end that nothing went to another host and that the console holds no error but the expected."""
    errors: list[str] = []
    asked: list[str] = []
    with browser.new_context(**context) as opened:
        page = opened.new_page()
        page.on(
            "console",
            lambda message: (
                errors.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        ready(page)
        yield page
        assert page.evaluate("window.pwned") is None
    assert [error for error in errors if not expected or expected not in error] == []
    assert {urlsplit(each)[:2] for each in asked if not each.startswith("data:")} == {
        urlsplit(url)[:2]
    }


def ready(page: Page) -> None:
    page.wait_for_selector("main:not([aria-busy])")


def cells(table: Locator) -> list[list[str]]:
    """The text of the rows of a table's body."""
    return [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]


def figure(page: Page, title: str) -> Locator:
    return page.locator("figure").filter(has=page.get_by_role("heading", name=title, exact=True))


def numbers(page: Page, title: str) -> list[list[str]]:
    """The rows of the table beside a chart."""
    found = figure(page, title)
    if found.locator("details[open]").count() == 0:
        found.get_by_text("Numbers", exact=True).click()
    found.locator("tbody tr").first.wait_for()
    return cells(found.locator("table"))


def percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}%"


def test_the_list_shows_every_run_and_its_best_accuracy(browser: Browser, url: str) -> None:
    runs = ask(url, "v1/runs")["items"]
    with visit(browser, url) as page:
        shown = {row[0]: row for row in cells(page.get_by_role("region", name="Runs"))}
    assert (
        set(shown)
        == {run["name"] for run in runs}
        == {REMIX, "demo-joint-seed0", "fine", "hostile", "broken"}
    )
    for run in runs:
        if run["status"] == "damaged":
            assert shown[run["name"]][1].startswith("damaged ")
            assert "run.json" in shown[run["name"]][1]
            continue
        best = run["best"]
        assert shown[run["name"]][1].split()[0] == run["status"]
        assert shown[run["name"]][2:5] == [
            f"{percent(best['validation_accuracy'])} @ {best['epoch']}",
            percent(run["test_accuracy"]["fused"]),
            "4 / 4",
        ]


def test_a_run_shows_the_numbers_of_the_api(browser: Browser, url: str) -> None:
    run, epochs = ask(url, f"v1/runs/{REMIX}"), ask(url, f"v1/runs/{REMIX}/epochs")["items"]
    with visit(browser, f"{url}#/runs/{REMIX}") as page:
        tiles = dict(
            zip(
                page.locator(".tiles dt").all_inner_texts(),
                page.locator(".tiles dd").all_inner_texts(),
                strict=True,
            )
        )
        assert (
            tiles["best validation"]
            == f"{percent(run['best']['validation_accuracy'])} epoch {run['best']['epoch']}"
        )
        assert [tiles[f"test, {head}"].strip() for head in ["fused", *MODALITIES]] == [
            percent(run["test_accuracy"][head]) for head in ["fused", *MODALITIES]
        ]
        accuracy = [
            [
                each["validation_accuracy"],
                *(each["modalities"][m]["validation_accuracy"] for m in MODALITIES),
                each["train_accuracy"],
            ]
            for each in epochs
        ]
        assert numbers(page, "Validation accuracy") == [
            [str(i), *map(percent, row)] for i, row in enumerate(accuracy)
        ]
        shares = [[each["modalities"][m]["share"] for m in MODALITIES] for each in epochs]
        assert shares[0] == [None] * 3
        assert sum(shares[3]) == pytest.approx(1)
        assert numbers(page, "Share of samples per modality") == [
            [str(i), *map(percent, row)] for i, row in enumerate(shares)
        ]
        assert [row[1] for row in numbers(page, "Churn")] == [
            percent(each["churn"]) for each in epochs
        ]
        label = figure(page, "Validation accuracy").locator(".plot").get_attribute("aria-label")
        assert label and f"fused {percent(epochs[3]['validation_accuracy'])}" in label
        drawn = page.locator("#main figure .plot .main-svg").first
        assert drawn.bounding_box()
        lines = page.evaluate(
            "[...document.querySelectorAll('.plot')].find(p => p.data?.[0].name === 'fused').data.map(t => [t.name, t.y])"
        )
        assert lines[:4] == [
            [name, [row[k] for row in accuracy]] for k, name in enumerate(["fused", *MODALITIES])
        ]
        colours = page.evaluate(
            "Object.fromEntries([...document.querySelectorAll('.plot')].flatMap(p => (p.data ?? []).map(t => [t.name, t.marker.color])))"
        )
        assert len({colours[name] for name in MODALITIES}) == 3
        assert [colours[f"trains {name}"] for name in MODALITIES] == [
            colours[name] for name in MODALITIES
        ]


def test_the_legend_hides_a_line(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}#/runs/{REMIX}") as page:
        button = figure(page, "Validation accuracy").get_by_role("button", name="sight")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "false")
        visible = "[...document.querySelectorAll('.plot')].find(p => p.data?.[0].name === 'fused').data.map(t => t.visible)"
        assert page.evaluate(visible) == [True, True, False, True, True]


def test_the_slider_moves_through_the_epochs(browser: Browser, url: str) -> None:
    stats = {
        epoch: ask(url, f"v1/runs/{REMIX}/plans/{epoch}/stats")["histograms"] for epoch in (2, 3)
    }
    assert stats[2] != stats[3]
    with visit(browser, f"{url}#/runs/{REMIX}") as page:
        slider = page.get_by_role("slider", name="Epoch")
        for epoch in (3, 2):
            expect(page.locator("output[for=epoch]")).to_have_text(f"{epoch} of 3")
            for name in MODALITIES:
                own = stats[epoch][name]["difficulty"]
                expect(figure(page, name).locator(".plot")).to_have_attribute(
                    "aria-label", re.compile(rf"Epoch {epoch}: {sum(own['counts'])} samples")
                )
                assert [row[1:] for row in numbers(page, name)] == [
                    [str(a), str(b)] for a, b in zip(own["counts"], own["assigned"], strict=True)
                ]
            drawn = page.evaluate(
                "[...document.querySelectorAll('.plot')].filter(p => p.data?.[0].name === 'all samples').map(p => p.data.map(t => t.y))"
            )
            assert drawn == [
                [stats[epoch][m]["difficulty"]["counts"], stats[epoch][m]["difficulty"]["assigned"]]
                for m in MODALITIES
            ]
            slider.press("ArrowLeft")
        expect(page.locator("output[for=epoch]")).to_have_text("1 of 3")
        expect(page.get_by_text("This epoch has no scores of its own")).to_be_visible()
        assert page.url.endswith("?epoch=1")
        page.reload()
        expect(page.locator("output[for=epoch]")).to_have_text("1 of 3")
        page.get_by_role("button", name="Next epoch").click()
        page.get_by_label("KL from uniform").check()
        counts = stats[2]["sight"]["kl"]["counts"]
        expect(figure(page, "sight").locator(".plot")).to_have_attribute(
            "aria-label", re.compile("Epoch 2: .* mean kl")
        )
        assert [row[1] for row in numbers(page, "sight")] == [str(count) for count in counts]


def test_the_order_of_a_plan(browser: Browser, url: str) -> None:
    order = ask(url, f"v1/runs/{REMIX}/plans/3/stats")["order"]
    with visit(browser, f"{url}#/runs/{REMIX}") as page:
        assert numbers(page, "Order of the plan") == [
            [str(edge), *(str(order["num_steps"][name][i]) for name in MODALITIES)]
            for i, edge in enumerate(order["edges"][:-1])
        ]


def test_steps_page_and_filter(browser: Browser, url: str) -> None:
    path = "v1/runs/fine/plans/3"
    every, stats = ask(url, f"{path}/steps?limit=1000")["items"], ask(url, f"{path}/stats")
    assert len(every) > 50

    def rows(steps: list[dict[str, Any]]) -> list[list[str]]:
        return [
            [
                str(step["step"]),
                step["modality"],
                str(len(step["rows"])),
                ", ".join(map(str, step["rows"])),
            ]
            for step in steps
        ]

    with visit(browser, f"{url}#/runs/fine") as page:
        table, pager = (
            page.get_by_role("region", name="Steps"),
            page.get_by_role("group", name="Pages: Steps"),
        )
        assert cells(table) == rows(every[:25])
        pager.get_by_role("button", name="Next").click()
        expect(pager.locator("output")).to_have_text(f"26 {DASH} 50 of {len(every)}")
        assert cells(table) == rows(every[25:50])
        own = [step for step in every if step["modality"] == "sight"]
        assert len(own) > 25
        page.get_by_label("modality", exact=True).select_option("sight")
        expect(pager.locator("output")).to_have_text(
            f"1 {DASH} 25 of {stats['modalities']['sight']['num_steps']}"
        )
        assert cells(table) == rows(own[:25])
        pager.get_by_role("button", name="Next").click()
        expect(pager.locator("output")).to_have_text(re.compile(f"^26 {DASH} .* of {len(own)}$"))
        assert cells(table) == rows(own[25:50])
        pager.get_by_role("button", name="Previous").click()
        expect(pager.locator("output")).to_have_text(f"1 {DASH} 25 of {len(own)}")
        expect(pager.get_by_role("button", name="Previous")).to_have_attribute(
            "aria-disabled", "true"
        )


def test_a_samples_story(browser: Browser, url: str, trained_store: Path) -> None:
    samples = FeatureSet.open(Place.at(trained_store / "features" / "made")).samples.to_pylist()
    sample = next(
        each["sample_id"] for each in samples if each["split"] == "train" and not each["has_sight"]
    )
    story = ask(url, f"v1/runs/{REMIX}/samples/{sample}")
    with visit(browser, f"{url}#/runs/{REMIX}", expected="404") as page:
        page.get_by_label("Sample id").fill(sample)
        page.get_by_role("button", name="Find").click()
        expect(page.get_by_role("heading", name=sample)).to_be_visible()
        assert "missing sight" in page.locator("#sample .facts").inner_text().replace("\n", " ")
        shown = cells(page.get_by_role("region", name="The sample's epochs"))
        assert [row[:3] for row in shown] == [
            [str(each["epoch"]), each["assigned"], str(each["step"])] for each in story["epochs"]
        ]
        last = story["epochs"][3]["modalities"]
        wanted = [
            f"{last[m][key]:.2f}" if last[m][key] is not None else DASH
            for m in MODALITIES
            for key in ("difficulty", "kl", "p_label")
        ]
        assert shown[3][3:] == wanted
        assert wanted[3:6] == [DASH] * 3
        page.get_by_label("Sample id").fill("no such sample")
        page.get_by_label("Sample id").press("Enter")
        expect(page.locator("#sample .problem")).to_contain_text("no such sample")


def test_rejected_samples_page_with_their_reasons(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}#/runs/{REMIX}") as page:
        expect(page.get_by_text("60 of 260 samples (23.1%): truncated 60")).to_be_visible()
        rows = page.get_by_role("region", name="Rejected samples")
        assert cells(rows)[0] == [
            f"lost0{HOSTILE}",
            "truncated",
            "decode",
            "a.tar",
            "cut at byte 0",
        ]
        page.get_by_role("group", name="Pages: Rejected samples").get_by_role(
            "button", name="Next"
        ).click()
        expect(rows.locator("tbody tr").first).to_contain_text("lost25")


def test_a_comparison_shows_methods_side_by_side(browser: Browser, url: str) -> None:
    found, points = ask(url, "v1/comparisons/demo"), ask(url, "v1/comparisons/demo/curves")["items"]
    with visit(browser, f"{url}#/comparisons") as page:
        page.get_by_role("link", name="demo").click()
        ready(page)
        rows = cells(page.get_by_role("region", name="Test accuracy", exact=True))
        assert [row[:5] for row in rows] == [
            [
                each["method"],
                *(
                    percent(each["accuracy"].get(head, {}).get("mean"))
                    for head in ["fused", *MODALITIES]
                ),
            ]
            for each in found["methods"]
        ]
        test = cells(page.get_by_role("region", name="Tests between methods"))[0]
        assert test[0] == "remix - joint"
        assert test[1] == f"{100 * found['tests'][0]['difference']:+.1f}".replace("-", MINUS)
        fused = [
            [percent(point["validation_accuracy"]) for point in points if point["method"] == method]
            for method in ("joint", "remix")
        ]
        assert numbers(page, "fused") == [
            [str(i), *row] for i, row in enumerate(zip(*fused, strict=True))
        ]
        page.get_by_role("link", name=re.compile("remix, seed 0")).click()
        expect(page.get_by_role("heading", name=REMIX)).to_be_focused()


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
        for path in (
            "",
            "runs/fine?sample=s0000",
            "runs/hostile",
            "runs/nope",
            "comparisons",
            "comparisons/demo",
            "features",
            "features/made",
        ):
            page.goto(f"{url}#/{path}")
            title = re.sub(r".*/|\?.*", "", path or "runs")
            expect(
                page.get_by_role("heading", level=1, name=re.compile(f"^{title}$", re.IGNORECASE))
            ).to_be_visible()
            ready(page)
            assert page.evaluate("document.documentElement.scrollWidth") == 360, path
            assert all(
                box["x"] + box["width"] <= 360
                for plot in page.locator(".plot:visible").all()
                if (box := plot.bounding_box())
            ), path


def test_the_keyboard_reaches_everything(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}#/runs/fine") as page:
        wanted = page.evaluate(
            "document.querySelectorAll('a, button, input, select, summary').length"
        )
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
        for reached in (
            "skip",
            "theme",
            "epoch",
            "steps-modality",
            "sample-id",
            "BUTTON Find",
            "BUTTON Next",
            "A Runs",
            "BUTTON Previous epoch",
            "SUMMARY Configuration",
        ):
            assert reached in seen
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
    whole, run = Run.open(Place.at(store / "runs" / REMIX)), _copy_run(store, "live")
    run.update(status="running", result=None)
    write_table(run.place / "epochs.arrow", whole.epochs().slice(0, 3).combine_chunks())
    run.plan(3).delete()
    with serving(store) as url, visit(browser, f"{url}/#/runs/live") as page:
        expect(page.locator("output[for=epoch]")).to_have_text("2 of 2")
        page.get_by_role("slider", name="Epoch").press("ArrowLeft")
        expect(page.locator("output[for=epoch]")).to_have_text("1 of 2")
        assert len(numbers(page, "Validation accuracy")) == 3
        page.get_by_role("slider", name="Epoch").focus()
        run.plan(3).write_bytes(whole.plan(3).read_bytes())
        write_table(run.place / "epochs.arrow", whole.epochs().combine_chunks())
        run.update(status="finished", result=whole.facts["result"])
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


def test_a_token_is_asked_for_and_kept(browser: Browser, store: Path) -> None:
    with (
        serving(store, token="open-sesame") as url,
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


def test_a_report_is_the_page_in_one_file(browser: Browser, url: str, report: Path) -> None:
    def look(page: Page) -> list[Any]:
        titles = [
            "Validation accuracy",
            "Share of samples per modality",
            "Seconds per stage",
            "Order of the plan",
            *MODALITIES,
        ]
        shown: list[Any] = [numbers(page, title) for title in titles] + [
            page.locator(".tiles").inner_text(),
            cells(page.get_by_role("region", name="Steps")),
        ]
        page.get_by_role("button", name="Previous epoch").click()
        expect(page.locator("output[for=epoch]")).to_have_text("2 of 3")
        return shown + [numbers(page, title) for title in ["Order of the plan", *MODALITIES]]

    with visit(browser, f"{url}#/runs/fine") as page:
        served = look(page)
    with visit(browser, report.as_uri(), offline=True) as page:
        assert look(page) == served
        page.get_by_role("button", name="Next epoch").click()
        expect(page.get_by_role("group", name="Pages: Steps").locator("output")).to_contain_text(
            "the service has all"
        )
        held = re.findall(r"s\d{4}", page.get_by_text("This report holds").inner_text())
        page.get_by_label("Sample id").fill(held[-1])
        page.get_by_role("button", name="Find").click()
        expect(page.get_by_role("heading", name=held[-1])).to_be_visible()
        expect(page.get_by_text("60 of 260 samples")).to_be_visible()
        page.get_by_label("Sample id").fill("s9999")
        page.get_by_role("button", name="Find").click()
        expect(page.locator("#sample .problem")).to_contain_text("Not in this report")


def test_a_report_is_the_same_twice_and_bounded(
    store: Path, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "REMIX_TOKEN", "a token of the environment does not shut the report out of its own store"
    )
    again = Place.at(tmp_path / "again.html")
    _outside(lambda: write_report(str(store / "runs" / "fine"), again))
    assert again.read_bytes() == report.read_bytes()
    text = report.read_text()
    assert str(store) not in text
    assert text.lower().count("</script>") == text.lower().count("<script")
    assert not re.search(r'(?:src|href)="assets/', text)


def test_a_report_of_no_run_is_an_error(store: Path, tmp_path: Path) -> None:
    out = Place.at(tmp_path / "report.html")
    with pytest.raises(InputError, match="nope"):
        _outside(lambda: write_report(str(store / "runs" / "nope"), out))
    with pytest.raises(InputError, match=re.escape("run.json")):
        _outside(lambda: write_report(str(store / "runs" / "broken"), out))
    with pytest.raises(ConfigError, match="features/made"):
        write_report(str(store / "features" / "made"), out)
    assert not out.exists()
