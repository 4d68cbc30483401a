"""Tiny models, loaded once."""

from unittest import mock

import pytest

from cospec import Ensemble

from ..cli_models import write_models


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def pair(folder):
    """Two members that are unlike, and a drafter."""
    return Ensemble([folder / "a", folder / "b"], proposer=folder / "c", max_sequences=32)


@pytest.fixture(scope="module", autouse=True)
def short_self_test():
    """A study's self-test draws fewer samples, as many as are decoded at once, and compares shorter texts. What it
    finds by as many as it draws otherwise is tested in tests/test_exactness_faults.py."""
    with mock.patch.multiple("cospec.study.pilot", NUM_SAMPLES=16, CHECKED_TOKENS=16):
        yield


@pytest.fixture
def opened(browser):
    """Open a report; at the end nothing may have gone wrong, and nobody may have been asked."""
    wrong: list[str] = []
    asked: list[str] = []
    pages = {}

    def visited(path, *, width=1100, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages[page] = path.as_uri()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield visited
    for page in pages:
        page.close()
    assert wrong == []
    assert asked == [*pages.values()]
