"""The documentation as a site: it builds without a warning, asks nobody for anything, and leaves nothing out."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import cospec

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages. A link or an anchor that leads nowhere, or a page that no menu has, fails the build."""
    folder = tmp_path_factory.mktemp("site")
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return folder


class Loaded(HTMLParser):
    """The addresses that a page loads by itself."""

    def __init__(self, page):
        super().__init__()
        self.addresses = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.addresses.append(attributes.get("src"))
        if tag == "link" and attributes.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(attributes.get("href"))


@pytest.mark.long
def test_no_page_loads_anything_from_elsewhere(site):
    pages = [*site.rglob("*.html")]
    assert len(pages) > 20
    foreign = {
        (page.name, address)
        for page in pages
        for address in Loaded(page).addresses
        if address and re.match(r"(https?:)?//", address)
    }
    assert not foreign
    sheets = [*site.rglob("*.css")]
    assert sheets
    assert not [sheet.name for sheet in sheets if re.search(r"url\(\W*(https?:)?//", sheet.read_text(encoding="utf-8"))]


@pytest.mark.long
def test_every_public_name_is_in_the_reference(site):
    shown = set(re.findall(r'id="(cospec[\w.]*)"', (site / "api.html").read_text(encoding="utf-8")))
    assert {f"cospec.{name}" for name in cospec.__all__} <= shown
    assert {f"cospec.testing.{name}" for name in ("check_schedule", "check_combination", "check_runner")} <= shown


@pytest.mark.long
def test_links_between_documents_lead_to_their_pages(site):
    start = (site / "index.html").read_text(encoding="utf-8")
    for target in ("architecture.html#why-it-is-exact", "serving.html#seeds", "index.ja.html", "benchmarks.html"):
        assert f'href="{target}"' in start
    assert "openai" in (site / "source" / "examples" / "client.py.html").read_text(encoding="utf-8")


@pytest.mark.long
def test_a_list_right_below_a_sentence_is_a_list(site):
    batch = (site / "batch.html").read_text(encoding="utf-8")
    assert re.search(r"may be mixed:</p>\s*<ul>", batch)


def test_the_page_of_the_command_line_is_up_to_date():
    made = importlib.util.spec_from_file_location("commands", ROOT / "docs" / "commands.py")
    commands = importlib.util.module_from_spec(made)
    made.loader.exec_module(commands)
    assert commands.PAGE.read_text(encoding="utf-8") == commands.page(), "run: python docs/commands.py"
