"""Make docs/page-light.png, docs/page-dark.png and docs/page-phone.png: the page, with real answers to real photos.

Needs Chromium (apt-get install chromium). Start a server (GLIMPSE_HTTP_PORT=8080 make serve), then:
.venv/bin/python docs/screenshots.py http://localhost:8080
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from skimage import data

DOCS = Path(__file__).parent
DESKTOP, PHONE = (1000, 760), (390, 780)


def main() -> None:
    """Show scikit-image's photos of a cat and of a coffee to the page."""
    address = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        photos = []
        for name in ("chelsea", "coffee"):
            photos.append(Path(folder) / f"{name}.jpg")
            Image.fromarray(getattr(data, name)()).save(photos[-1], quality=90)
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = _page(browser, address, photos, scheme, DESKTOP)
            page.locator(".times summary").first.click()
            _save(page, f"page-{scheme}.png")
        _save(_page(browser, address, photos[1:], "light", PHONE), "page-phone.png")
        browser.close()


def _page(browser: Browser, address: str, photos: list[Path], scheme: str, size: tuple[int, int]) -> Page:
    width, height = size
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    page.goto(address)
    page.get_by_text("Ready", exact=True).wait_for()
    for number, photo in enumerate(photos):  # one after the other, so that none waits for the other
        page.set_input_files("#files", photo)
        page.locator(".labels").nth(number).wait_for()
    return page


def _save(page: Page, name: str) -> None:
    path = DOCS / name
    page.screenshot(path=path)
    with Image.open(path) as image:
        image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(path, optimize=True)


if __name__ == "__main__":
    main()
