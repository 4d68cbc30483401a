"""The seed of a run: shown, copied and used again on the page, since every answer says it."""

import re

import pytest
from playwright.sync_api import expect

from ..browsing import in_chromium
from .conftest import MODEL
from .visits import PROMPT, text_of, traced, visiting


def test_an_answer_says_the_seed_that_was_drawn_and_it_gives_the_same_text(http):
    body = {"prompt": PROMPT, "max_tokens": 12, "schedule": "alternate"}
    drawn = http.post("/v1/completions", json={**body, "n": 2}).json()["choices"]
    assert drawn[0]["seed"] == drawn[1]["seed"] < 2**53
    again = http.post("/v1/completions", json={**body, "n": 2, "seed": drawn[0]["seed"]}).json()["choices"]
    assert [choice["text"] for choice in again] == [choice["text"] for choice in drawn]
    other = http.post("/v1/completions", json=body).json()["choices"][0]
    assert other["seed"] != drawn[0]["seed"]


def test_a_chats_answer_and_every_chunk_say_the_seed(client):
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "3 + 4?"}], "max_tokens": 4}
    assert client.chat.completions.create(**chat, seed=7).choices[0].seed == 7
    chunks = list(client.chat.completions.create(**chat, stream=True))
    assert len({choice.seed for chunk in chunks for choice in chunk.choices}) == 1


@in_chromium
def test_a_drawn_seed_is_shown_copied_and_reused(browser, served, http):
    with visiting(browser, served, permissions=["clipboard-read", "clipboard-write"]) as visit:
        page = visit.page
        expect(page.locator("#seed-line")).to_be_hidden()
        with page.expect_request("**/v1/completions") as asked:
            visit.run(seed="")
        # With a seed of the page's own, `auto` would never measure.
        assert "seed" not in asked.value.post_data_json
        visit.becomes("done")
        seed, text = page.inner_text("#used-seed"), text_of(page)
        assert re.fullmatch(r"\d+", seed)
        assert text == traced(http, seed=int(seed))[0]
        page.click("#copy-seed")
        expect(page.locator("#copy-seed")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == seed
        page.focus("#reuse-seed")
        page.keyboard.press("Enter")
        expect(page.locator("#seed")).to_have_value(seed)
        expect(page.locator("#reuse-seed")).to_be_focused()
        page.click("#generate")
        visit.becomes("done")
        assert (page.inner_text("#used-seed"), text_of(page)) == (seed, text)
        visit.finish()


@pytest.mark.long
@in_chromium
def test_where_there_is_no_clipboard_the_seed_is_at_least_selected(visit):
    visit.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    visit.run(seed=2**70)
    visit.becomes("done")
    visit.page.click("#copy-seed")
    expect(visit.page.locator("#copy-seed")).to_have_text(re.compile("Copied|Selected"))
    assert visit.page.evaluate("String(getSelection())") == str(2**70)


@pytest.mark.long
@in_chromium
def test_a_stopped_run_has_shown_its_seed(visit):
    visit.ask_for(ignore_eos=True, max_tokens=900)
    visit.run(seed="")
    expect(visit.page.locator("#output > .tok").nth(5)).to_be_attached()
    visit.page.click("#stop")
    visit.becomes("stopped")
    expect(visit.page.locator("#used-seed")).to_have_text(re.compile(r"^\d+$"))


@pytest.mark.long
@in_chromium
@pytest.mark.parametrize(
    ("seed", "verification", "measures"), [("", "block", True), (3, "block", False), (3, "coupled", True)]
)
def test_auto_says_whether_it_measures(visit, seed, verification, measures):
    visit.fill(seed=seed)
    visit.page.select_option("#schedule", "auto")
    visit.page.select_option("#verification", verification)
    expect(visit.page.locator("#schedule-hint")).to_contain_text("Measures" if measures else "unmeasured")
