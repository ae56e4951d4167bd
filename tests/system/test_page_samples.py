"""Views of single samples in Chromium: the scatter, moves between plans, and the ranked lists."""

from playwright.sync_api import Browser, expect

from tests.support.pages import MODALITIES, NEEDS_CHROMIUM, REMIX, cells, get_json, visit

pytestmark = NEEDS_CHROMIUM
DATA = "document.querySelector('figure[data-chart=scatter] .plot').data"


def test_samples_are_shown_and_opened(browser: Browser, url: str) -> None:
    run = f"v1/runs/{REMIX}"
    points = get_json(url, f"{run}/scores/3/points")
    with visit(browser, f"{url}#/runs/{REMIX}") as page:
        page.locator("#scatter-x").select_option("touch")
        for trace, name in zip(page.evaluate(DATA), MODALITIES, strict=True):
            expected = [
                [sample, x, y]
                for sample, x, y, assigned in zip(
                    points["sample_id"],
                    points["difficulty"]["touch"],
                    points["difficulty"]["sight"],
                    points["assigned"],
                    strict=True,
                )
                if assigned == name and None not in (x, y)
            ]
            assert [list(e) for e in zip(trace["text"], trace["x"], trace["y"], strict=True)] == (
                expected
            )
        page.evaluate("document.querySelector('figure[data-chart=scatter]').scrollIntoView()")
        first = page.locator("figure[data-chart=scatter] .plot .point").first
        first.scroll_into_view_if_needed()
        box = first.bounding_box()
        assert box
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        heading = page.locator("#sample h3").first
        expect(heading).to_be_visible()
        assert heading.inner_text() in points["sample_id"]

        moves = get_json(url, f"{run}/plans/2/moves?to=3")
        counts = {(each["before"], each["after"]): each["num_rows"] for each in moves["counts"]}
        assert [row[1:] for row in cells(page.get_by_role("region", name="Moves", exact=True))] == [
            [str(counts.get((before, after), 0)) for after in MODALITIES] for before in MODALITIES
        ]

        mistakes = get_json(url, f"{run}/mistakes?split=test")["items"]
        page.locator("#samples-list").select_option("mistakes")
        table = page.get_by_role("region", name="Samples that the fused head gets wrong")
        expect(table.locator("tbody tr").first).to_contain_text(mistakes[0]["sample_id"])
        page.locator("#samples-class").select_option("c1")
        own = [item["sample_id"] for item in mistakes if item["class_name"] == "c1"]
        expect(table.locator("tbody tr")).to_have_count(min(len(own), 25))
        assert [row[0] for row in cells(table)] == own[:25]
        table.get_by_role("link", name=own[-1]).click()
        expect(heading).to_have_text(own[-1])
        page.locator("#samples-split").select_option("train")
        expect(page.locator("#samples-note")).to_contain_text("'test'")
