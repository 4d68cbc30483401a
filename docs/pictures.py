"""Make the pictures of the page again: `python docs/pictures.py`, with cospec[dev], Debian's chromium and fonts-inter."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

PORT = 8642
URL = f"http://127.0.0.1:{PORT}/"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
SERVE = [sys.executable, "-c", "from cospec.cli import main; main()", "serve", "--port", str(PORT)]
FOLDER = Path(__file__).parent


def main() -> None:
    """Serve the bundled ensemble, and take a wide light picture and a narrow dark one of a comparison."""
    server = subprocess.Popen([*SERVE, "--ensemble", "demo:we", "--proposer", "demo:drafter"])
    try:
        wait_for_server()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
            wide = browser.new_page(viewport={"width": 1360, "height": 900}, color_scheme="light")
            take(wide, "page.png", full_page=True)
            narrow = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
            take(narrow, "page-phone.png", full_page=False)
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


def take(page: Page, name: str, *, full_page: bool) -> None:
    page.goto(URL)
    page.wait_for_selector("#generate:enabled")
    page.eval_on_selector("#sampling", "details => { details.open = true; }")
    page.select_option("#schedule", "alternate")
    page.fill("#seed", "1")
    page.click("#compare")
    page.wait_for_selector("body[data-phase=done]", timeout=120_000)
    page.mouse.move(0, 0)
    page.focus("#output .swapped >> nth=1")
    page.wait_for_timeout(500)
    page.screenshot(path=FOLDER / name, full_page=full_page)


if __name__ == "__main__":
    main()
