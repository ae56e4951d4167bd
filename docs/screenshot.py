"""Take docs/images/page.png: a run of `make demo` as `remix serve` shows it.

    .venv/bin/remix serve &
    .venv/bin/python docs/screenshot.py http://127.0.0.1:8000

Needs Chromium (`apt-get install chromium fonts-dejavu-core`).
"""

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

RUN = "/#/runs/demo-remix-seed0"
OUT = Path(__file__).parent / "images" / "page.png"
SIZE = {"width": 1040, "height": 1072}


def main(url: str) -> None:
    """Write the upper part of the page of one run, in its light theme."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport=SIZE, color_scheme="light", device_scale_factor=1.5)
        page.goto(url + RUN)
        page.wait_for_selector("main:not([aria-busy])")
        page.wait_for_timeout(3000)  # the charts are drawn after the numbers
        page.screenshot(path=OUT)
        browser.close()
    with Image.open(OUT) as image:  # a palette: a third of the size
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(OUT, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
