"""The plan that the page asks for: its schedule, its draft length, and a verification that the schedule supports."""

import pytest
from playwright.sync_api import expect

from ..browsing import in_chromium
from .visits import text_of, traced

pytestmark = [in_chromium, pytest.mark.long]


@pytest.mark.parametrize(("written", "asked"), [("", None), ("3", 3), ("2, 5", [2, 5]), ("auto", "auto")])
def test_a_draft_length_is_one_number_several_or_auto(visit, written, asked):
    schedule = "alternate" if isinstance(asked, list) else "fixed"
    with visit.page.expect_request("**/v1/completions") as sent:
        visit.run(schedule=schedule, gamma=written)
    assert sent.value.post_data_json.get("gamma") == asked
    visit.becomes("done")


def test_the_draft_length_is_kept(visit, http):
    visit.run(schedule="fixed", gamma="2")
    visit.becomes("done")
    assert text_of(visit.page) == traced(http, schedule="fixed", gamma=2)[0] != traced(http, schedule="fixed")[0]


def test_a_comparison_asks_for_plain_without_it(visit):
    visit.run("#compare", schedule="fixed", gamma="2")
    visit.becomes("done")


@pytest.mark.parametrize("written", ["many", "0", "-1", "1.5", "2, x"])
def test_what_is_no_draft_length_is_told_and_marked(visit, written):
    visit.run(schedule="fixed", gamma=written)
    visit.becomes("failed")
    assert "gamma" in visit.page.inner_text("#alert")
    expect(visit.page.locator("#gamma")).to_have_attribute("aria-invalid", "true")
    visit.finish(told=[400])
    visit.errors.clear()


def test_every_verification_on_offer_runs(visit):
    page = visit.page
    expect(page.locator("#generate")).to_be_enabled()
    visit.fill()
    for schedule in page.locator("#schedule option").all_inner_texts():
        page.select_option("#schedule", schedule)
        for verification in page.locator("#verification option").all_inner_texts():
            page.select_option("#verification", verification)
            visit.run(schedule=schedule, max_tokens=4)
            page.wait_for_selector("body[data-phase=done], body[data-phase=failed]")
            assert page.inner_text("#alert") == "", (schedule, verification)
