"""The page of a server of several ensembles: one of them is chosen, and asked."""

import json

import pytest
from playwright.sync_api import expect

from cospec import Ensemble, Mixture
from cospec.members import shared_runners

from ..browsing import in_chromium
from .conftest import MODEL, Served
from .visits import PROMPT, text_of, visiting

OTHER = "other"

pytestmark = [in_chromium, pytest.mark.long]


@pytest.fixture
def visit(browser, served):
    """The page of a server whose list of models has a second entry, of other members."""

    def listed(route):
        answer = route.fetch().json()
        first = answer["data"][0]
        described = {**first["cospec"], "members": ["x", "y", "z"], "drafters": [], "schedule": "fixed"}
        described["combination"] = {"type": "product", "weights": [0.2, 0.3, 0.5]}
        route.fulfill(json={**answer, "data": [first, {**first, "id": OTHER, "cospec": described}]})

    with visiting(browser, served) as opened:
        opened.page.route("**/v1/models", listed)
        opened.page.reload()
        expect(opened.page.locator("#generate")).to_be_enabled()
        yield opened
        opened.finish(told=[404])


def test_one_ensemble_is_no_choice(browser, served):
    with visiting(browser, served) as visit:
        expect(visit.page.locator("#model")).to_be_hidden()
        visit.finish()


def test_the_form_is_that_of_the_chosen_ensemble(visit):
    page = visit.page
    expect(page.get_by_label("Ensemble")).to_be_visible()
    assert page.locator("#model option").all_inner_texts() == [MODEL, OTHER]
    page.get_by_label("Ensemble").select_option(OTHER)
    expect(page.locator("#about")).to_contain_text("product of x, y, z")
    assert page.locator("#sliders label").all_inner_texts() == ["x", "y", "z"]
    assert page.locator("#sliders output").all_inner_texts() == ["0.20", "0.30", "0.50"]
    assert page.locator("#lane-figures bdi").all_inner_texts() == ["x", "y", "z"]
    expect(page.locator("#schedule")).to_have_value("fixed")
    page.get_by_label("Ensemble").select_option(MODEL)
    assert page.locator("#sliders label").all_inner_texts() == ["math", "general"]


def test_the_chosen_ensemble_is_asked_and_remembered(visit):
    page = visit.page
    page.select_option("#model", OTHER)
    page.reload()
    expect(page.locator("#model")).to_have_value(OTHER)
    with page.expect_request("**/v1/completions") as asked:
        visit.run()
    assert json.loads(asked.value.post_data)["model"] == OTHER
    # This server does not have it: the list is read again.
    visit.becomes("failed")
    page.unroute("**/v1/models")
    page.click("#alert button")
    visit.becomes("idle")
    expect(page.locator("#model")).to_be_hidden()
    visit.run()
    visit.becomes("done")


def test_each_of_two_ensembles_answers_for_itself(browser):
    with shared_runners():
        ensembles = {
            "math": Ensemble(["demo:math", "demo:general"], Mixture([0.9, 0.1])),
            "general alone": Ensemble(["demo:general"]),
        }
    with Served(ensembles, model="math") as several, visiting(browser, several) as visit, several.http() as http:
        page = visit.page
        for name in ensembles:
            page.select_option("#model", name)
            visit.run(schedule="plain")
            visit.becomes("done")
            body = {"model": name, "prompt": PROMPT, "max_tokens": 24, "seed": 3, "schedule": "plain"}
            assert text_of(page) == http.post("/v1/completions", json=body).json()["choices"][0]["text"]
            assert page.locator("#lane-figures bdi").all_inner_texts() == list(ensembles[name].member_names)
            assert page.locator("#weights").is_visible() == (name == "math")
        visit.finish()
