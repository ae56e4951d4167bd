"""The web page in Chromium shows the numbers of the API."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.features.feature_set import FeatureSet
from pipeline.storage.store_path import StorePath
from tests.support.pages import (
    DASH,
    HOSTILE,
    MINUS,
    MODALITIES,
    NEEDS_CHROMIUM,
    REMIX,
    cells,
    figure,
    get_json,
    numbers,
    percent,
    visit,
)

pytestmark = NEEDS_CHROMIUM
ACCURACY_DATA = "document.querySelector('figure[data-chart=accuracy] .plot').data"


def histogram_data(modality: str) -> str:
    """JavaScript expression of the traces of a modality's histogram."""
    return f"document.querySelector('figure[data-chart=histogram-{modality}] .plot').data"


def test_the_list_shows_every_run_and_its_best_accuracy(browser: Browser, url: str) -> None:
    runs = get_json(url, "v1/runs")["items"]
    with visit(browser, f"{url}#/runs") as page:
        shown = {row[0]: row for row in cells(page.get_by_role("region", name="Runs"))}
    assert {run["name"] for run in runs} == set(shown)
    assert set(shown) == {
        REMIX,
        "demo-joint-seed0",
        "demo-unimodal-seed0",
        "fine",
        "hostile",
        "broken",
    }
    for run in runs:
        if run["status"] == "damaged":
            assert shown[run["name"]][1].startswith("damaged ")
            assert "run.json" in shown[run["name"]][1]
            continue
        best = run["best"]
        assert shown[run["name"]][1].split()[0] == run["status"]
        assert shown[run["name"]][2:6] == [
            f"{percent(best['validation_accuracy'])} (epoch {best['epoch']})",
            percent(run["test_accuracy"]["fused"]),
            percent(run["assembled"]["test_accuracy"]["fused"]),
            "4 of 4",
        ]


def table(rows: list[list[float | None]]) -> list[list[str]]:
    """Fractions by epoch, formatted as on the page."""
    return [[str(epoch), *map(percent, row)] for epoch, row in enumerate(rows)]


def tiles_of(page: Page) -> dict[str, str]:
    """The values of the tiles by name."""
    return {
        str(tile.get_attribute("data-tile")): tile.locator("dd").inner_text().strip()
        for tile in page.locator("[data-tile]").all()
    }


def test_a_run_shows_the_numbers_of_the_api(browser: Browser, url: str) -> None:
    run, epochs = (
        get_json(url, f"v1/runs/{REMIX}"),
        get_json(url, f"v1/runs/{REMIX}/epochs")["items"],
    )
    with visit(browser, f"{url}#/runs/{REMIX}") as page:
        tiles = tiles_of(page)
        best = run["best"]
        shown = [percent(best["validation_accuracy"]), f"{best['value']:.3f}"]
        assert tiles["best"].split()[0] == str(best["epoch"])
        assert all(value in tiles["best"] for value in shown)
        assembled = run["assembled"]
        assert tiles["assembled"].split() == [
            percent(assembled["test_accuracy"]["fused"]),
            "readout:",
            assembled["readout"],
        ]
        assert tiles["test-fused"] == percent(run["test_accuracy"]["fused"])
        for name in MODALITIES:
            accuracy, *_, epoch = tiles[f"test-{name}"].split()
            assert accuracy == percent(run["test_accuracy"][name])
            assert epoch == str(assembled["epochs"][name])

        def own(epoch: dict[str, Any], what: str) -> list[float | None]:
            return [epoch["modalities"][name][what] for name in MODALITIES]

        what = "validation_accuracy"
        accuracy = [[epoch[what], *own(epoch, what), epoch["train_accuracy"]] for epoch in epochs]
        assert numbers(page, "accuracy") == table(accuracy)
        what = "calibrated_loss"
        losses = [[epoch[what], *own(epoch, what)] for epoch in epochs]
        assert numbers(page, "calibrated") == [
            [str(epoch), *(f"{loss:.2f}" for loss in row)] for epoch, row in enumerate(losses)
        ]
        shares = [own(epoch, "share") for epoch in epochs]
        assert shares[0] == [None] * 3
        assert sum(shares[3]) == pytest.approx(1)
        assert numbers(page, "share") == table(shares)
        assert numbers(page, "churn") == table([[epoch["churn"]] for epoch in epochs])
        label = figure(page, "accuracy").locator(".plot").get_attribute("aria-label")
        assert label and percent(epochs[3]["validation_accuracy"]) in label
        drawn = page.locator("#main figure .plot .main-svg").first
        assert drawn.bounding_box()
        *lines, batches = page.evaluate(f"{ACCURACY_DATA}.map(trace => trace.y)")
        *expected, trained = (list(values) for values in zip(*accuracy, strict=True))
        assert lines == expected
        # batches of several modalities and of one do not compare: the line breaks after warm-up
        warmup = run["warmup_epochs"]
        assert batches == [*trained[:warmup], None, *trained[warmup:]]
        colours = page.evaluate(
            "Object.fromEntries([...document.querySelectorAll('.plot')]"
            ".flatMap(plot => (plot.data ?? []).map(trace => [trace.name, trace.marker.color])))"
        )
        assert len({colours[name] for name in MODALITIES}) == 3
        histogram_colours = [
            page.evaluate(f"{histogram_data(name)}[1].marker.color") for name in MODALITIES
        ]
        assert histogram_colours == [colours[name] for name in MODALITIES]


def test_a_run_shows_its_test_metrics_and_confusion_matrices(browser: Browser, url: str) -> None:
    run = get_json(url, f"v1/runs/{REMIX}")
    features = get_json(url, "v1/features/made")
    with visit(browser, f"{url}#/runs/{REMIX}") as page:
        assert cells(page.get_by_role("region", name="Test metrics")) == [
            [head, *(percent(own[key]) for key in ("accuracy", "balanced_accuracy", "macro_f1"))]
            for head, own in run["metrics"].items()
        ]
        assert [*run["confusion"]] == ["fused", *MODALITIES]
        for head, matrix in run["confusion"].items():
            heat = page.get_by_role("region", name=f"Confusion matrix, {head}")
            expect(heat.locator("thead th").nth(1)).to_have_text(features["classes"][0])
            assert heat.locator("thead th").all_inner_texts()[1:] == features["classes"]
            assert cells(heat) == [
                [name, *map(str, counts)]
                for name, counts in zip(features["classes"], matrix, strict=True)
            ]
        shades = page.evaluate(
            "[...document.querySelectorAll('[data-confusion=fused] td')]"
            ".map(cell => getComputedStyle(cell).backgroundColor)"
        )
        counts = [count / sum(row) for row in run["confusion"]["fused"] for count in row]
        assert len(set(shades)) == len(set(counts)) > 1


def test_the_legend_hides_a_line(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}#/runs/{REMIX}") as page:
        button = figure(page, "accuracy").get_by_role("button", name="sight")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "false")
        visible = page.evaluate(f"{ACCURACY_DATA}.map(trace => trace.visible)")
        assert visible == [True, True, False, True, True]


def test_the_slider_moves_through_the_epochs(browser: Browser, url: str) -> None:
    plans = f"v1/runs/{REMIX}/plans"
    stats = {epoch: get_json(url, f"{plans}/{epoch}/stats")["histograms"] for epoch in (2, 3)}
    assert stats[2] != stats[3]
    with visit(browser, f"{url}#/runs/{REMIX}") as page:
        slider = page.get_by_role("slider", name="Epoch")
        for epoch in (3, 2):
            expect(page.locator("output[for=epoch]")).to_have_text(f"{epoch} (0 to 3)")
            bars = []
            for name in MODALITIES:
                own = stats[epoch][name]["difficulty"]
                bars.append([own["counts"], own["assigned"]])
                expect(figure(page, f"histogram-{name}").locator(".plot")).to_have_attribute(
                    "aria-label", re.compile(rf"Epoch {epoch}: {sum(own['counts'])} samples")
                )
                shown = [
                    [int(cell) for cell in row[1:]] for row in numbers(page, f"histogram-{name}")
                ]
                assert shown == [list(pair) for pair in zip(*bars[-1], strict=True)]
            drawn = [
                page.evaluate(f"{histogram_data(name)}.map(trace => trace.y)")
                for name in MODALITIES
            ]
            assert drawn == bars
            slider.press("ArrowLeft")
        expect(page.locator("output[for=epoch]")).to_have_text("1 (0 to 3)")
        expect(page.locator("#no-scores")).to_be_visible()
        assert page.url.endswith("?epoch=1")
        page.reload()
        expect(page.locator("output[for=epoch]")).to_have_text("1 (0 to 3)")
        page.get_by_role("button", name="Next epoch").click()
        expect(page.locator("output[for=epoch]")).to_have_text("2 (0 to 3)")


def test_the_order_of_a_plan(browser: Browser, url: str) -> None:
    order = get_json(url, f"v1/runs/{REMIX}/plans/3/stats")["order"]
    with visit(browser, f"{url}#/runs/{REMIX}") as page:
        assert numbers(page, "order") == [
            [str(edge), *(str(order["num_steps"][name][i]) for name in MODALITIES)]
            for i, edge in enumerate(order["edges"][:-1])
        ]


def test_steps_page_and_filter(browser: Browser, url: str) -> None:
    path = "v1/runs/fine/plans/3"
    every, stats = (
        get_json(url, f"{path}/steps?limit=1000")["items"],
        get_json(url, f"{path}/stats"),
    )
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
        table = page.get_by_role("region", name="Steps")
        pager = page.get_by_role("group", name="Pages: Steps")
        assert cells(table) == rows(every[:25])
        pager.get_by_role("button", name="Next").click()
        expect(pager.locator("output")).to_have_text(f"26 {DASH} 50 of {len(every)}")
        assert cells(table) == rows(every[25:50])
        own = [step for step in every if step["modality"] == "sight"]
        assert len(own) > 25
        page.locator("#steps-modality").select_option("sight")
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


def test_the_history_of_a_sample(browser: Browser, url: str, trained_store: Path) -> None:
    samples = FeatureSet.open(StorePath.at(trained_store / "features" / "made")).samples.to_pylist()
    sample = next(
        row["sample_id"] for row in samples if row["split"] == "train" and not row["has_sight"]
    )
    history = get_json(url, f"v1/runs/{REMIX}/samples/{sample}")
    with visit(browser, f"{url}#/runs/{REMIX}", expected="404") as page:
        page.get_by_label("Sample id").fill(sample)
        page.get_by_role("button", name="Find").click()
        expect(page.get_by_role("heading", name=sample)).to_be_visible()
        assert "missing modalities sight" in page.locator(
            "#sample .properties"
        ).inner_text().replace("\n", " ")
        shown = cells(page.get_by_role("region", name="History of the sample"))
        expected = [
            [str(epoch[key]) for key in ("epoch", "assigned", "step")]
            for epoch in history["epochs"]
        ]
        assert [row[:3] for row in shown] == expected
        last = history["epochs"][3]["modalities"]
        keys = ("difficulty", "p_label")
        assert last["sight"]["difficulty"] is None
        values = [last[name][key] for name in MODALITIES for key in keys]
        assert shown[3][3:] == [DASH if value is None else f"{value:.2f}" for value in values]
        page.get_by_label("Sample id").fill("no such sample")
        page.get_by_label("Sample id").press("Enter")
        expect(page.locator("#sample .problem")).to_contain_text("no such sample")


def test_rejected_samples_page_with_their_reasons(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}#/runs/{REMIX}") as page:
        expect(page.locator("#rejected")).to_contain_text("60 of 260 samples (23.1%)")
        page.get_by_role("link", name="See why").click()
        expect(page.get_by_text("60 of 260 samples (23.1%): truncated 60")).to_be_visible()
        rows = page.get_by_role("region", name="Rejected samples")
        first = [f"lost0{HOSTILE}", "truncated", "decode", "a.tar", "cut at byte 0"]
        assert cells(rows)[0] == first
        pager = page.get_by_role("group", name="Pages: Rejected samples")
        pager.get_by_role("button", name="Next").click()
        expect(rows.locator("tbody tr").first).to_contain_text("lost25")


def test_features_show_what_no_modality_reads(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}#/features/made") as page:
        expect(page.get_by_text("Media that no modality reads: png 3.")).to_be_visible()


def test_a_comparison_shows_methods_side_by_side(browser: Browser, url: str) -> None:
    comparison, points = (
        get_json(url, "v1/comparisons/demo"),
        get_json(url, "v1/comparisons/demo/curves")["items"],
    )
    with visit(browser, f"{url}#/comparisons") as page:
        page.get_by_role("link", name="demo").click()
        results = page.get_by_role("region", name="Test accuracy", exact=True)
        rows = cells(results)
        for row, result in zip(rows, comparison["methods"], strict=True):
            names = ["fused", "assembled", *MODALITIES]
            heads = [result["accuracy"].get(head, {}) for head in names]
            assert row[:6] == [result["method"], *(percent(head.get("mean")) for head in heads)]
            assert row[6] == str(result["tested_epoch"]["min"])
        expect(page.locator("h1 + .verdict")).to_have_text(comparison["headline"])
        expect(page.get_by_text(comparison["verdict"])).to_be_visible()
        shown = cells(page.get_by_role("region", name="Tests between methods"))
        for row, test in zip(shown, comparison["tests"], strict=True):
            assert row[:3] == [test["method"], test["against"], test["accuracy"]]
            difference = f"{100 * test['difference']['mean']:+.1f}"
            assert row[3].lstrip("+") == difference.lstrip("+").replace("-", MINUS)
        fused = [
            [point["validation_accuracy"] for point in points if point["method"] == method]
            for method in ("joint", "unimodal", "remix")
        ]
        assert numbers(page, "accuracy-fused") == table(list(zip(*fused, strict=True)))
        page.get_by_role("link", name=re.compile("remix, seed 0")).click()
        expect(page.get_by_role("heading", name=REMIX)).to_be_focused()
