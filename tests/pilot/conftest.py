"""Tiny models, loaded once."""

import pytest

from cospec import Ensemble

from ..cli_models import write_models


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def pair(folder):
    """Two members that are unlike, and a drafter."""
    return Ensemble([folder / "a", folder / "b"], proposer=folder / "c", max_sequences=8)


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
