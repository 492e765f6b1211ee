"""Take the pictures of README and docs from a real report.

Run `python docs/make_pictures.py demo/evaluation/test/report.html` after `make demo`. Needs Chromium and playwright
(the `dev` extra).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1280, 860
CHROMIUM = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"


def main() -> None:
    """The report's head in light and dark, with few colours to keep the files small, and its pictures with all."""
    report = Path(sys.argv[1]).resolve()
    folder = Path(__file__).parent / "images"
    folder.mkdir(exist_ok=True)
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM.split())
        for scheme, name, section in (
            ("light", "report", None),
            ("dark", "report-dark", None),
            ("light", "report-pictures", "#pictures"),
            ("light", "report-calibration", "#calibration"),
        ):
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
            page.goto(report.as_uri())
            if section:
                page.locator(section).scroll_into_view_if_needed()
                page.evaluate("section => document.querySelector(section).scrollIntoView()", section)
            page.screenshot(path=folder / f"{name}.png")
            page.close()
            with Image.open(folder / f"{name}.png") as image:
                rgb = image.convert("RGB")
            (rgb if section == "#pictures" else rgb.quantize(256)).save(folder / f"{name}.png", optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
