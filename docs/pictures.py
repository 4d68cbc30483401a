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
CHAT_PICTURE = ("page-chat.png", "light", 1360, 900)
NUM_RUNS = 7
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
            name, scheme, width, height = CHAT_PICTURE
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            save(chatted(page), FOLDER / name)
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
    """A finished comparison, with a replaced draft in focus: of several runs the one of median speed."""
    page.goto(URL)
    page.wait_for_selector("#generate:enabled")
    page.eval_on_selector("#sampling", "details => { details.open = true; }")
    page.select_option("#schedule", "alternate")
    page.fill("#seed", "18")
    taken = sorted(compared(page) for _ in range(NUM_RUNS))
    ratio, picture = taken[NUM_RUNS // 2]
    print(f"{path.name}: {ratio} times the speed of plain, of {[each for each, _ in taken]}")
    save(picture, path)


def save(picture: bytes, path: Path) -> None:
    # Of the methods the one that keeps the colours of small things.
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    palette = image.quantize(NUM_COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)


def compared(page: Page) -> tuple[float, bytes]:
    """How many times the speed of plain, and the picture of it."""
    page.click("#compare")
    page.wait_for_selector("body[data-phase=streaming]")
    page.wait_for_selector("body[data-phase=done]", timeout=120_000)
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # until the page has scrolled to the results
    page.locator("#output .swapped").last.focus()
    return float(page.inner_text("#ratio strong").rstrip("×")), page.screenshot()


def chatted(page: Page) -> bytes:
    """A chat of two questions."""
    page.goto(URL)
    page.wait_for_selector("#generate:enabled")
    page.check("#mode-chat")
    page.select_option("#schedule", "alternate")
    page.fill("#seed", "18")
    page.click(".suggestion >> nth=0")
    for answer, message in enumerate((None, "Another 3 boxes come in. How many pencils are there now?"), start=1):
        if message:
            page.fill("#message", message)
        page.press("#message", "Enter")
        page.wait_for_selector("body[data-phase=done]", timeout=120_000)
        page.wait_for_selector(f".answer >> nth={answer - 1}")
    page.wait_for_timeout(500)  # until the conversation has scrolled to its end
    return page.screenshot()


if __name__ == "__main__":
    main()
