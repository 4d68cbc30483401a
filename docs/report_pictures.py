"""Make the report's pictures again: `python docs/report_pictures.py`, with cospec[dev], Debian's chromium, fonts-inter,
fonts-noto-cjk."""

import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from cospec.study.report import write
from cospec.study.results import Results

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
FOLDER = Path(__file__).parent
STUDY = FOLDER.parent / "tests" / "pilot" / "data" / "example.json"
PICTURES = [("report.png", "en", "light"), ("report-ja.png", "ja", "dark")]


def main() -> None:
    """The top of the page of one real study, beside this file."""
    study = Results.load(STUDY)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        for name, language, scheme in PICTURES:
            write(study, Path(folder), language)
            page = browser.new_page(viewport={"width": 1100, "height": 1935}, color_scheme=scheme)
            page.goto((Path(folder) / "report.html").as_uri())
            page.screenshot(path=FOLDER / name)


if __name__ == "__main__":
    main()
