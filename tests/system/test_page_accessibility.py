"""Axe finds nothing serious on any view of the page, in its light and its dark theme."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from tests.support.pages import NEEDS_CHROMIUM, REMIX, ready, visit

pytestmark = NEEDS_CHROMIUM
VIEWS = (
    "",
    "runs/fine?sample=s0000",
    "runs/nope",
    f"overlay?runs={REMIX},demo-joint-seed0",
    "comparisons",
    "comparisons/demo",
    "features",
    "features/made",
)
RULES = {"light": ["wcag2a", "wcag2aa"], "dark": ["color-contrast"]}


def test_axe_finds_nothing_serious(browser: Browser, url: str) -> None:
    axe, found = Axe(), []
    with visit(browser, url, expected="404") as page:
        for view in VIEWS:
            page.goto("about:blank")
            page.goto(f"{url}#/{view}")
            ready(page)
            for theme, rules in RULES.items():
                page.get_by_label("Theme").select_option(theme)
                options = {"runOnly": rules, "resultTypes": ["violations"]}
                found += [
                    (view, theme, violation["id"], node["html"])
                    for violation in axe.run(page, options=options).response["violations"]
                    if violation["impact"] in ("serious", "critical")
                    for node in violation["nodes"]
                ]
    assert found == []
