"""Take the pictures of the page: `python docs/pictures.py`, with cospec[dev], Debian's chromium and fonts-inter."""

import io
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

PORT = 8642
URL = f"http://127.0.0.1:{PORT}/"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
SERVE = [sys.executable, "-c", "from cospec.cli import main; main()", "serve", "--port", str(PORT)]
FOLDER = Path(__file__).parent
PICTURES = [
    ("page.png", "light", 1360, 1420),
    ("page-dark.png", "dark", 1360, 800),
    ("page-phone.png", "dark", 390, 844),
]
NUM_COLOURS = 256  # A palette, which halves the files


def main() -> None:
    """Serve the bundled ensemble, and write the pictures beside this file."""
    server = subprocess.Popen([*SERVE, "--ensemble", "demo:we", "--proposer", "demo:drafter"])
    try:
        wait_for_server()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
            for name, scheme, width, height in PICTURES:
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                take(page, FOLDER / name)
    finally:
        server.terminate()
        server.wait()


def wait_for_server() -> None:
    until = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{URL}health").close()
            return
        except urllib.error.URLError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def take(page: Page, path: Path) -> None:
    """A finished comparison, with a replaced draft in focus."""
    page.goto(URL)
    page.wait_for_selector("#generate:enabled")
    page.eval_on_selector("#sampling", "details => { details.open = true; }")
    page.select_option("#schedule", "alternate")
    page.fill("#seed", "18")
    page.click("#compare")
    page.wait_for_selector("body[data-phase=done]", timeout=120_000)
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # until the page has scrolled to the results
    page.locator("#output .swapped").last.focus()
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    # Of the methods the one that keeps the colours of small things.
    palette = picture.quantize(NUM_COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)


if __name__ == "__main__":
    main()
