"""Take the pictures of the gallery for README and docs from the real page.

Run `python docs/make_gallery_pictures.py demo test three 416 other` after `make demo` and `manyhot localize demo
--split test`: an evaluated run, its split, the class and the number of the picture to show, and a second run to
compare. Needs Chromium and playwright (the `dev` extra).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import sync_playwright

CHROMIUM = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"


def main() -> None:
    """The gallery, the comparison, the review and a tried picture in light, a picture with heat in dark."""
    run, split, name, row, other = sys.argv[1:6]
    folder = Path(__file__).parent / "images"
    command = [sys.executable, "-m", "manyhot", "browse", run, "--split", split, "--compare", other, "--port", "0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,  # noqa: S603
        sync_playwright() as playwright,
    ):
        match = re.search(r"http://\S+", server.stdout.readline() if server.stdout else "")
        if match is None:
            raise SystemExit("the gallery did not start")
        executable = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM.split())
        for stem, scheme, state in (
            ("gallery", "light", {"class": name}),
            ("gallery-picture", "dark", {"class": name, "row": row, "layers": "truth,found,heat"}),
            ("gallery-compare", "light", {"view": "compare"}),
            ("gallery-review", "light", {"view": "review"}),
            ("gallery-try", "light", {"view": "try"}),
        ):
            page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme=scheme)
            page.goto(f"{match[0]}?{urlencode(state)}")
            if stem == "gallery-try":
                picture = page.request.get(f"{match[0]}api/pictures/{row}/image")
                page.wait_for_selector("#try .drop")
                upload = {"name": "photograph.jpg", "mimeType": "image/jpeg", "buffer": picture.body()}
                page.set_input_files("#try input[type=file]", upload)
            if stem == "gallery-try" or "heat" in state.get("layers", ""):
                page.wait_for_selector("[data-heat]", timeout=120_000)
            page.wait_for_timeout(3000)
            file = folder / f"{stem}.jpg"
            page.screenshot(path=folder / "taken.png")
            with Image.open(folder / "taken.png") as image:
                image.convert("RGB").save(file, quality=82, optimize=True)
            (folder / "taken.png").unlink()
            page.close()
        browser.close()
        server.terminate()


if __name__ == "__main__":
    main()
