"""The list of runs, the overlay of runs, and the tabs and test predictions of a run in Chromium."""

from playwright.sync_api import Browser, expect

from tests.support.pages import NEEDS_CHROMIUM, REMIX, cells, get_json, numbers, percent, visit

pytestmark = NEEDS_CHROMIUM


def test_runs_are_sorted_filtered_grouped_and_overlaid(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        table = page.get_by_role("region", name="Runs")

        def names() -> list[str]:
            return [row[0].strip() for row in cells(table)]

        page.get_by_role("button", name="test accuracy").click()
        expect(table.locator("th", has_text="test accuracy")).to_have_attribute(
            "aria-sort", "descending"
        )
        runs = get_json(url, "v1/runs?sort=-accuracy")["items"]
        expect(table.locator("tbody tr").first).to_contain_text(runs[0]["name"])
        assert names() == [run["name"] for run in runs]
        page.locator("#filter-method").select_option("unimodal")
        expect(table.locator("tbody tr")).to_have_count(1)
        page.reload()
        expect(table.locator("tbody tr")).to_have_count(1)
        page.locator("#filter-method").select_option("")
        page.get_by_label("group by comparison").check()
        expect(table.locator("tbody tr").first).to_have_text("Comparison demo")
        page.get_by_label(f"Select {REMIX}").check()
        page.get_by_label("Select demo-joint-seed0").check()
        page.get_by_role("button", name="Overlay 2 runs").click()
        settings = cells(page.get_by_role("region", name="Differences of the configurations"))
        assert ["method", "remix", "joint"] in settings
        assert not any(row[0] in ("name", "train.epochs") for row in settings)
        expected = [
            [
                epoch["validation_accuracy"]
                for epoch in get_json(url, f"v1/runs/{run}/epochs")["items"]
            ]
            for run in (REMIX, "demo-joint-seed0")
        ]
        assert numbers(page, "accuracy-fused") == [
            [str(epoch), *map(percent, row)]
            for epoch, row in enumerate(zip(*expected, strict=True))
        ]
        page.go_back()
        expect(page.get_by_label(f"Select {REMIX}")).to_be_checked()


def test_a_run_has_tabs_reliability_and_accuracy_by_class(browser: Browser, url: str) -> None:
    found = get_json(url, f"v1/runs/{REMIX}/predictions")["heads"]
    classes = get_json(url, f"v1/runs/{REMIX}/predictions/classes")["items"]
    with visit(
        browser, f"{url}#/runs/{REMIX}?at=plan", viewport={"width": 390, "height": 800}
    ) as page:
        tabs = page.get_by_role("navigation", name="Parts of this run")
        current = tabs.locator("[aria-current]")
        expect(current).to_have_text("Plan")
        expect(page.locator("#plan")).to_be_focused()
        tabs.get_by_role("link", name="Test predictions").click()
        expect(current).to_have_text("Test predictions")
        assert page.url.endswith("?at=predictions")
        assert tabs.bounding_box()["y"] == 0  # type: ignore[index]
        calibration = cells(page.get_by_role("region", name="Calibration of the heads"))
        assert [row[1:] for row in calibration] == [
            [
                str(own["num_rows"]),
                *map(percent, [own["accuracy"], own["confidence"], own["calibration_error"]]),
            ]
            for own in found.values()
        ]
        bins = [bin_ for bin_ in found["fused"]["bins"] if bin_["num_rows"]]
        shown = [row for row in numbers(page, "reliability") if row[0] == "fused"]
        assert [row[2:] for row in shown] == [
            [str(own["num_rows"]), percent(own["confidence"]), percent(own["accuracy"])]
            for own in bins
        ]
        table = page.get_by_role("region", name="Accuracy by class")
        table.get_by_role("button", name="sight", exact=True).click()
        expect(table.locator("[aria-sort=ascending]")).to_have_text("sight")
        accuracies = sorted(own["heads"]["sight"]["accuracy"] for own in classes)
        assert [row[4] for row in cells(table)] == [percent(value) for value in accuracies]
        page.evaluate("scrollTo(0, 0)")
        expect(current).to_have_text("Training")
