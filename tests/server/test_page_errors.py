"""What goes wrong is told on the page, and it goes on from there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import expect

from ..browsing import in_chromium
from ..properties import examples
from .conftest import Served
from .faulty import DIE, RAISE, moody_ensemble
from .visits import text_of, visiting

pytestmark = [in_chromium, pytest.mark.long]


def test_a_refused_key_is_told_with_its_header_as_code(browser, ensemble):
    with Served(ensemble, api_keys=("secret",)) as guarded, visiting(browser, guarded) as visit:
        visit.page.fill("#api-key", "wrong")
        visit.page.keyboard.press("Enter")
        visit.becomes("failed")
        assert visit.page.inner_text("#alert code") == "Authorization: Bearer KEY"
        assert "`" not in visit.page.inner_text("#alert")
        expect(visit.page.locator("#api-key")).to_be_focused()
        visit.finish(told=[401])


@pytest.mark.hypothesis
def test_what_stands_between_backticks_is_code_and_nothing_is_lost(visit):
    show = """text => {
      $('alert').replaceChildren(...withCode(text));
      return [$('alert').textContent, $('alert').innerHTML];
    }"""

    @settings(max_examples=examples(200), deadline=None)
    @given(st.lists(st.text(st.characters(exclude_characters="`", exclude_categories=["Cs"]), min_size=1), max_size=7))
    def holds(parts):
        shown, html = visit.page.evaluate(show, "`".join(parts))
        # Without its partner a backtick is one.
        odd = len(parts) % 2 == 0 and len(parts) > 0
        assert shown == "".join(parts[:-1]) + ("`" if odd else "") + "".join(parts[-1:])
        assert html.count("<code>") == max(0, (len(parts) - 1) // 2)
        assert html.count("<") == 2 * html.count("<code>")

    holds()


def test_a_key_that_was_withdrawn_is_asked_for_again(browser, ensemble):
    with Served(ensemble, api_keys=("secret",)) as guarded, visiting(browser, guarded) as visit:
        visit.page.fill("#api-key", "secret")
        visit.page.keyboard.press("Enter")
        expect(visit.page.locator("#key-form")).to_be_hidden()
        visit.page.evaluate("apiKey = 'old'")
        visit.run()
        visit.becomes("failed")
        expect(visit.page.locator("#api-key")).to_be_focused()
        visit.page.keyboard.press("Control+A")
        visit.page.keyboard.type("secret")
        visit.page.keyboard.press("Enter")
        visit.becomes("idle")
        visit.run()
        visit.becomes("done")
        visit.finish(told=[401])


def test_a_network_that_goes_midway_and_comes_back(visit):
    visit.ask_for(ignore_eos=True, max_tokens=2000)
    visit.run()
    expect(visit.page.locator("#output > .tok").nth(5)).to_be_attached()
    visit.page.context.set_offline(True)
    visit.page.click("#stop")
    visit.becomes("stopped")
    visit.page.click("#generate")
    visit.becomes("failed")
    assert "cannot be reached" in visit.page.inner_text("#alert")
    expect(visit.page.locator("#generate")).to_be_enabled()
    visit.page.context.set_offline(False)
    visit.page.unroute("**/v1/completions")
    visit.page.click("#alert button")
    visit.becomes("done")
    assert text_of(visit.page)
    assert visit.page.inner_text("#alert") == ""
    visit.errors.clear()


def test_an_answer_that_the_context_cuts_short_says_so(browser, ensemble):
    with Served(ensemble, context=40) as small, visiting(browser, small) as visit:
        visit.run(max_tokens=8)
        visit.becomes("done")
        assert "max tokens reached" in visit.page.inner_text("#status")
        visit.run(max_tokens=100)
        visit.becomes("done")
        assert "the context is full" in visit.page.inner_text("#status")
        visit.finish()


def test_a_member_that_fails_is_told_and_the_next_run_succeeds(browser):
    ensemble, _ = moody_ensemble()
    with Served(ensemble) as running, visiting(browser, running) as visit:
        visit.run(prompt=f"Buy a{RAISE}")
        visit.becomes("failed")
        assert "no bananas" in visit.page.inner_text("#alert")
        assert visit.page.inner_text("#speed") == "–"
        visit.run()
        visit.becomes("done")
        visit.finish(told=[500])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_has_died_is_told(browser):
    ensemble, _ = moody_ensemble()
    with Served(ensemble) as running, visiting(browser, running) as visit:
        visit.run(prompt=f"Buy a{DIE}")
        visit.becomes("failed")
        visit.page.click("#alert button")
        visit.becomes("failed")
        assert "engine" in visit.page.inner_text("#alert")
        expect(visit.page.locator("#alert button")).to_have_text("Try again")
        visit.finish(told=[503])
