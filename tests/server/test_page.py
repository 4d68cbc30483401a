"""The page at `/`, in Chromium against a started server, beside what the API says of the same request."""

import re

import pytest
from playwright.sync_api import expect

import cospec

from ..browsing import in_chromium
from .conftest import MODEL, Served
from .visits import PHONE, PROMPT, streamed, text_of, traced, visiting

MARKS = ("drafted", "accepted", "replaced")

pytestmark = in_chromium


def lanes_of(page, selector):
    """The colour of each element: that of a lane, or r's."""
    classes = page.eval_on_selector_all(selector, "nodes => nodes.map((node) => node.className)")
    return [re.search(r"\b(p\d|r)\b", each)[1] for each in classes]


def test_a_typed_prompt_streams_in_the_colours_of_its_proposers(visit, http):
    page = visit.page
    page.fill("#prompt", "")
    page.type("#prompt", PROMPT)
    page.evaluate(
        """() => {
          window.lengths = new Set();
          new MutationObserver(() => window.lengths.add(document.querySelectorAll('#output > .tok').length))
            .observe(document.querySelector('#output'), { childList: true });
        }"""
    )
    visit.run(prompt=page.input_value("#prompt"))
    visit.becomes("done")
    text, events = traced(http)
    assert text_of(page) == text
    colour = {"math": "p0", "general": "p1", "drafter": "p2", None: "r"}
    assert lanes_of(page, "#output > .tok") == [colour[event["proposer"]] for event in events]
    assert {"p0", "p1"} <= set(lanes_of(page, "#output > .tok"))
    assert page.evaluate("window.lengths.size") > 3
    expect(page.locator("#metrics")).to_be_visible()
    styles = page.eval_on_selector_all(
        "#output > .p0, #output > .p1",
        "nodes => [...new Set(nodes.map((node) => getComputedStyle(node).borderBottomStyle))]",
    )
    assert sorted(styles) == ["dashed", "solid"]


def test_the_sheet_fills_as_the_trace_says(visit, http):
    visit.run()
    visit.becomes("done")
    _, events = traced(http)
    columns = visit.page.eval_on_selector_all(
        "#sheet-columns .col",
        """columns => columns.map((column) => [...column.querySelectorAll('.cell')].map((cell) => cell.className))""",
    )
    rows = ["math", "general", "drafter"]
    assert len(columns) == len(events) == 24
    for cells, event in zip(columns, events, strict=True):
        marks = {name: mark for name, cell in zip(rows, cells, strict=True) for mark in cell.split() if mark in MARKS}
        told = {event["proposer"]: "accepted", event["rejected"]: "replaced"}
        assert marks == {name: mark for name, mark in told.items() if name is not None}
        # Both members were heard wherever a token was settled; the drafter never was.
        assert ["fed" in cell.split() for cell in cells] == [True, True, False]


def test_calls_and_acceptance_are_the_servers(visit, http):
    visit.run()
    visit.becomes("done")
    chunks = streamed(http)
    told = chunks[-1]["metrics"]
    rows = visit.page.eval_on_selector_all(
        "#lane-figures tr", "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    for name, calls, _, fed, acceptance in rows[:2]:
        proposer = told["speculative_decoding"]["proposers"][name]
        assert int(calls) == told["members"][name]["calls"]
        assert int(fed) == told["members"][name]["tokens_fed"]
        assert acceptance.startswith(f"{proposer['accepted']} / {proposer['proposed']} = ")
        # What the page shows while the text comes arrives at the same.
        assert [chunk for chunk in chunks if "trace" in chunk][-1]["trace"][-1]["calls"][name] == int(calls)


def test_a_replaced_draft_is_struck_through_on_hover_focus_and_tap(browser, served, http):
    _, events = traced(http)
    replaced = next(event for event in events if event["replaced"] is not None)
    with visiting(browser, served, **PHONE) as visit:
        visit.run()
        visit.becomes("done")
        token, tip = visit.page.locator("#output .swapped").first, visit.page.locator("#tip")
        for point in (token.hover, token.focus, token.tap):
            visit.page.locator("h1").hover()
            visit.page.evaluate("document.activeElement.blur()")
            expect(tip).to_be_hidden()
            point()
            expect(tip.locator("s")).to_have_text(replaced["replaced"].strip())
            assert tip.inner_text().startswith(f"{replaced['rejected']} proposed")
            expect(visit.page.locator("#sheet .col.lit")).to_have_count(1)
        assert replaced["replaced"].strip() in token.get_attribute("aria-label")
        visit.finish()


def test_the_comparison_shows_two_speeds_and_the_calls_of_both(visit):
    visit.run("#compare")
    visit.becomes("done")
    page = visit.page
    speeds = [float(page.inner_text(f"#speed-{side}")) for side in ("chosen", "plain")]
    assert min(speeds) > 0
    assert float(page.inner_text("#ratio strong")[:-1]) == pytest.approx(speeds[0] / speeds[1], abs=0.02)
    calls = {
        row[0]: row[1:]
        for row in page.eval_on_selector_all(
            "#passes tr", "rows => rows.slice(1).map((row) => [...row.cells].map((cell) => cell.textContent))"
        )
    }
    assert calls["math"][1] == calls["general"][1] == "100.0"
    assert float(calls["math"][0]) < 100
    assert text_of(page) != text_of(page, "#output-plain") != ""
    assert page.inner_text("#name-chosen") == "alternate"


def test_coupled_verification_writes_the_same_text_as_plain(visit):
    visit.fill()
    visit.page.select_option("#verification", "coupled")
    visit.run("#compare", seed="")
    visit.becomes("done")
    assert text_of(visit.page) == text_of(visit.page, "#output-plain")
    assert "the same text" in visit.page.inner_text("#compare-note")


def test_the_keyboard_alone_is_enough(visit, http):
    page, keys = visit.page, visit.page.keyboard
    expect(page.locator("#generate")).to_be_enabled()

    def tab_to(selector):
        for _ in range(40):
            keys.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"{selector} cannot be reached")

    tab_to("#prompt")
    keys.press("Control+A")
    keys.type(PROMPT)
    tab_to("#schedule")
    keys.type("alt")
    tab_to("#weight-0")
    tab_to("#max-tokens")
    keys.press("Control+A")
    keys.type("24")
    tab_to("#seed")
    keys.type("3")
    keys.press("Control+Enter")
    visit.becomes("done")
    text, events = traced(http)
    assert text_of(page) == text
    tab_to("#output")
    keys.press("ArrowRight")
    expect(page.locator("#tip s")).to_be_visible()
    tab_to("#sheet")
    keys.press("ArrowLeft")
    assert page.inner_text("#spoken").startswith(f"{len(events) - 1}: ")
    expect(page.locator("#tip")).to_be_visible()
    keys.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_never_scrolls_sideways(browser, served, scheme):
    with visiting(browser, served, color_scheme=scheme, **PHONE) as visit:
        visit.run("#compare")
        expect(visit.page.locator("#stop")).to_be_in_viewport()
        visit.becomes("done")
        for selector in ("#output", "#sheet", "#passes", ".words"):
            visit.page.locator(selector).scroll_into_view_if_needed()
            assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
        visit.finish()


def test_nothing_moves_while_a_text_comes(visit):
    tops = "['#output', '#sheet', '#lane-figures', '#passes', '.words'].map((s) => document.querySelector(s).offsetTop)"
    expect(visit.page.locator("#generate")).to_be_enabled()
    before = visit.page.evaluate(tops)
    visit.run(max_tokens=60)
    visit.becomes("done")
    assert visit.page.evaluate(tops) == before


def test_dark_is_the_systems_or_ones_own_choice(browser, served):
    def brightness(page):
        channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number)")
        return sum(channels[:3])

    with visiting(browser, served, color_scheme="dark") as visit:
        assert brightness(visit.page) < 150
        visit.page.click("#theme")
        assert brightness(visit.page) > 600
        visit.page.reload()
        assert brightness(visit.page) > 600
        visit.finish()


def test_what_the_server_refuses_is_told_and_its_field_marked(visit):
    visit.run(top_p=2)
    visit.becomes("failed")
    assert "top_p must be above 0 and at most 1" in visit.page.inner_text("#alert")
    expect(visit.page.locator("#top-p")).to_have_attribute("aria-invalid", "true")
    visit.run(top_p=1)
    visit.becomes("done")
    assert visit.page.inner_text("#alert") == ""
    visit.finish(told=[400])
    visit.errors.clear()


def test_no_number_of_tokens_is_told_in_a_comparison_too(visit):
    visit.fill(prompt=PROMPT)
    visit.page.focus("#max-tokens")
    visit.page.keyboard.press("Control+A")
    visit.page.keyboard.type("1e")
    visit.page.click("#compare")
    visit.becomes("failed")
    assert "max_tokens" in visit.page.inner_text("#alert")
    assert sum(url.endswith("/v1/completions") for url in visit.requested) == 1
    expect(visit.page.locator("#max-tokens")).to_have_attribute("aria-invalid", "true")
    visit.finish(told=[400])
    visit.errors.clear()


def test_a_prompt_that_does_not_fit_is_told(browser, ensemble):
    with Served(ensemble, context=40) as small, visiting(browser, small) as visit:
        visit.run(prompt="apples and pears " * 5000)
        visit.becomes("failed")
        assert "context" in visit.page.inner_text("#alert")
        visit.finish(told=[400])


def test_a_full_server_is_told_and_can_be_asked_again(browser, ensemble):
    with Served(ensemble, max_sequences=1, max_waiting=0) as full, visiting(browser, full) as visit:
        asked = {"prompt": PROMPT, "max_tokens": 900, "ignore_eos": True, "stream": True}
        with full.http() as http, http.stream("POST", "/v1/completions", json=asked):
            visit.run()
            visit.becomes("failed")
            assert "The server is busy" in visit.page.inner_text("#alert")
        assert full.becomes_idle()
        visit.page.click("#alert button")
        visit.becomes("done")
        visit.finish(told=[429])


def test_a_server_that_has_gone_is_told_and_what_came_is_kept(browser, ensemble):
    with Served(ensemble) as going, visiting(browser, going) as visit:
        visit.ask_for(ignore_eos=True, max_tokens=900)
        visit.run()
        expect(visit.page.locator("#output > .tok").nth(5)).to_be_attached()
        going.server.force_exit = going.server.should_exit = True
        visit.becomes("failed")
        assert "cannot be reached" in visit.page.inner_text("#alert")
        assert text_of(visit.page)
        visit.page.click("#alert button")
        visit.becomes("failed")
        assert "cannot be reached" in visit.page.inner_text("#alert")


def test_stop_ends_the_request_and_frees_its_sequence(visit, served):
    visit.ask_for(ignore_eos=True, max_tokens=900)
    visit.run()
    expect(visit.page.locator("#output > .tok").nth(5)).to_be_attached()
    assert served.host.num_running == 1
    visit.page.click("#stop")
    visit.becomes("stopped")
    assert served.becomes_idle()
    assert 5 < visit.page.locator("#output > .tok").count() < 900
    expect(visit.page.locator("#generate")).to_be_focused()
    visit.run()
    visit.becomes("streaming")
    visit.page.keyboard.press("Escape")
    visit.becomes("stopped")


def test_a_double_click_and_another_schedule_midway_change_nothing(visit, http):
    page = visit.page
    # Long enough to be under way for all that follows.
    visit.ask_for(ignore_eos=True)
    visit.run("h1", max_tokens=400)
    page.dblclick("#generate")
    page.keyboard.press("Control+Enter")
    page.select_option("#schedule", "plain")
    visit.becomes("done")
    text, _ = traced(http, max_tokens=400, ignore_eos=True)
    assert text_of(page) == text
    assert sum(url.endswith("/v1/completions") for url in visit.requested) == 1
    assert page.inner_text("#ran") == "alternate"


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=document.title='taken'><script>document.title='taken'</script>",
        "🙂 é 漢字 🏳️‍🌈!",
        "\u202eolleh\u202c שלום",
    ],
    ids=["HTML", "characters of several tokens", "right to left"],
)
def test_whatever_the_text_holds_is_shown_as_it_is(visit, text):
    visit.ask_for(guided_regex=re.escape(text), max_tokens=200)
    visit.run()
    visit.becomes("done")
    assert text_of(visit.page) == text
    assert visit.page.title() == "cospec"
    assert visit.page.locator("#output img, #output script, #sheet img, #sheet script").count() == 0


def test_a_members_name_is_shown_as_it_is(browser):
    names = ["<img src=x>", "a" * 60]
    members = [cospec.Member(model="demo:general", name=name) for name in names]
    named = cospec.Ensemble(members, cospec.Product([0.5, 0.5]))
    with Served(named) as running, visiting(browser, running, **PHONE) as visit:
        visit.run("#compare", max_tokens=12)
        visit.becomes("done")
        for selector in ("#lane-legend .chip + bdi", "#sheet-names bdi", "#lane-figures bdi", "#passes bdi"):
            assert visit.page.locator(selector).all_inner_texts() == names
        assert visit.page.locator("img").count() == 0
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
        visit.finish()


def test_a_key_is_asked_for_and_sent(browser, ensemble):
    with Served(ensemble, api_keys=("secret",)) as guarded, visiting(browser, guarded) as visit:
        expect(visit.page.locator("#api-key")).to_be_focused()
        visit.page.fill("#api-key", "wrong")
        visit.page.keyboard.press("Enter")
        visit.becomes("failed")
        visit.page.fill("#api-key", "secret")
        visit.page.keyboard.press("Enter")
        expect(visit.page.locator("#key-form")).to_be_hidden()
        # Its link would lead to a refusal.
        expect(visit.page.locator("#metrics")).to_be_hidden()
        visit.run()
        visit.becomes("done")
        visit.finish(told=[401])


def test_a_seed_of_many_digits_is_the_seed(visit, http):
    visit.run(seed=2**53 + 1)
    visit.becomes("done")
    assert text_of(visit.page) == traced(http, seed=2**53 + 1)[0] != traced(http, seed=2**53)[0]


def test_weights_are_shares_and_go_along(visit, http):
    expect(visit.page.locator("#generate")).to_be_enabled()
    visit.page.focus("#weight-0")
    visit.page.keyboard.press("End")
    assert visit.page.locator("#weights output").all_inner_texts() == ["0.99", "0.01"]
    visit.run(seed=5)
    visit.becomes("done")
    assert text_of(visit.page) == traced(http, seed=5, weights=[0.99, 0.01])[0]
    visit.page.click("#reset-weights")
    assert visit.page.locator("#weights output").all_inner_texts() == ["0.50", "0.50"]


def test_the_page_is_one_document_that_no_other_may_frame_or_feed(http):
    answer = http.get("/")
    policy = answer.headers["content-security-policy"]
    assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(policy.split("; "))
    assert "unsafe" not in policy
    assert re.findall(r'(?:src|href)="(?!data:|/docs|/metrics)[^"]*"', answer.text) == []
    assert MODEL not in answer.text
