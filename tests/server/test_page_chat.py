"""The page's chat: a conversation with the ensemble, beside what the API says of the same messages."""

import json
import re
import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from transformers import AutoTokenizer

from cospec import Engine, Ensemble, Member, demo

from ..browsing import in_chromium
from .conftest import Served
from .test_page_layout import FAULTS
from .visits import PHONE, streamed, text_of, traced, visiting

QUESTION = "Sam has 3 bags of 12 apples. How many apples are there?"
SECOND = "And if he eats two?"
# In the form that the bundled models were trained on; one word is refused.
TEMPLATE = (
    "{% for message in messages %}"
    "{% if 'banana' in message['content'] %}{{ raise_exception('no bananas') }}{% endif %}"
    "{{ {'user': 'Question: ', 'assistant': 'Answer: '}.get(message['role'], '') + message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
)

pytestmark = in_chromium


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Copies of two bundled models, with a chat template."""
    return [_templated(name, tmp_path_factory.mktemp("models") / name) for name in ("math", "general")]


def _templated(name, folder):
    folder.mkdir()
    bundled = demo.model_path(f"demo:{name}")
    tokenizer = AutoTokenizer.from_pretrained(bundled)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    for file in ("config.json", "generation_config.json", "model.safetensors"):
        (folder / file).symlink_to(f"{bundled}/{file}")
    return folder


@pytest.fixture(scope="module")
def chatting(members):
    with Served(Ensemble(members, proposer="demo:drafter", dtype="float32"), model="chatty") as running:
        yield running


@pytest.fixture
def http(chatting):
    with chatting.http() as made:
        yield made


@pytest.fixture
def visit(browser, chatting):
    with visiting(browser, chatting) as opened:
        expect(opened.page.locator("#message")).to_be_visible()
        yield opened
        opened.finish()


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content.strip()}


def colours(page):
    """Of the last answer: the colour of each token's proposer."""
    classes = page.eval_on_selector_all(
        ".turn:last-child .answer > .tok", "nodes => nodes.map((node) => node.className)"
    )
    return [re.search(r"\b(p\d|r)\b", each)[1] for each in classes]


def test_an_answer_has_the_colours_of_its_proposers_and_its_figures_beneath(visit, http):
    visit.say(QUESTION)
    visit.becomes("done")
    text, events = traced(http, messages=[user(QUESTION)])
    assert visit.turns() == [["user", QUESTION], ["assistant", text]]
    colour = {"math": "p0", "general": "p1", "drafter": "p2", None: "r"}
    assert colours(visit.page) == [colour[event["proposer"]] for event in events]
    told = streamed(http, messages=[user(QUESTION)])[-1]["metrics"]["speculative_decoding"]["proposers"]
    figures = visit.page.inner_text(".figures")
    for name in ("math", "general"):
        assert f"{told[name]['accepted']} / {told[name]['proposed']} =" in figures
    speed = float(re.search(r"([\d.]+) tokens/s", figures)[1])
    assert speed == pytest.approx(float(visit.page.inner_text("#speed")), abs=0.1)
    assert "24 tokens" in figures
    assert "max tokens reached" in figures
    assert visit.page.locator("#sheet-columns .col").count() == 24
    assert visit.page.inner_text("#spoken") == text.strip()
    expect(visit.page.locator("#message")).to_be_focused()


def test_a_further_message_carries_the_conversation_and_the_system_message(visit, http):
    visit.page.fill("#system", "Be brief.")
    visit.say(QUESTION)
    visit.becomes("done")
    first = visit.turns()[1][1]
    with visit.page.expect_request("**/v1/chat/completions") as asked:
        visit.say(SECOND, "#generate")
    told = [{"role": "system", "content": "Be brief."}, user(QUESTION), assistant(first), user(SECOND)]
    assert asked.value.post_data_json["messages"] == told
    visit.becomes("done")
    assert visit.turns()[3] == ["assistant", traced(http, messages=told)[0]]
    # One answer can be had anew: the last.
    assert visit.page.get_by_role("button", name="Regenerate").count() == 1


def test_enter_sends_and_shift_enter_begins_a_line(visit):
    page = visit.page
    page.click("#message")
    page.keyboard.press("Enter")
    assert visit.turns() == []
    visit.fill(max_tokens=4)
    page.click("#message")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value("#message") == "one\ntwo"
    page.keyboard.press("Enter")
    visit.becomes("done")
    assert visit.turns()[0] == ["user", "one\ntwo"]
    assert page.input_value("#message") == ""
    assert sum(url.endswith("/v1/chat/completions") for url in visit.requested) == 1


def test_stop_keeps_what_was_said(visit, chatting):
    visit.ask_for(ignore_eos=True, max_tokens=400)
    visit.say(QUESTION)
    expect(visit.page.locator(".answer > .tok").nth(5)).to_be_attached()
    visit.page.fill("#message", "the next")
    visit.page.click("#stop")
    visit.becomes("stopped")
    assert chatting.becomes_idle()
    assert "stopped" in visit.page.inner_text(".figures strong")
    kept = visit.turns()[1][1]
    assert len(kept) > 5
    assert visit.page.input_value("#message") == "the next"
    expect(visit.page.locator("#message")).to_be_focused()
    with visit.page.expect_request("**/v1/chat/completions") as asked:
        visit.page.keyboard.press("Enter")
    assert asked.value.post_data_json["messages"] == [user(QUESTION), assistant(kept), user("the next")]
    visit.becomes("streaming")
    visit.page.keyboard.press("Escape")
    visit.becomes("stopped")


def test_the_last_answer_is_generated_anew_and_kept_where_that_fails(visit, http):
    visit.say(QUESTION)
    visit.becomes("done")
    visit.fill(seed=4)
    visit.page.click("text=Regenerate")
    visit.becomes("done")
    text = traced(http, messages=[user(QUESTION)], seed=4)[0]
    assert visit.turns() == [["user", QUESTION], ["assistant", text]]
    assert text != traced(http, messages=[user(QUESTION)])[0]
    coloured = colours(visit.page)
    visit.fill(top_p=2)
    visit.page.click("text=Regenerate")
    visit.becomes("failed")
    expect(visit.page.locator("#top-p")).to_have_attribute("aria-invalid", "true")
    assert visit.turns() == [["user", QUESTION], ["assistant", text]]
    assert colours(visit.page) == coloured
    visit.finish(told=[400])
    visit.errors.clear()


def test_an_edited_message_replaces_what_follows_it(visit, http):
    page = visit.page
    for message in (QUESTION, SECOND):
        visit.say(message, max_tokens=6)
        visit.becomes("done")
    before = visit.turns()
    page.get_by_role("button", name="Edit").first.click()
    assert page.input_value("#message") == QUESTION
    page.keyboard.press("Escape")
    assert page.input_value("#message") == ""
    assert visit.turns() == before
    page.get_by_role("button", name="Edit").first.click()
    with page.expect_request("**/v1/chat/completions") as asked:
        visit.say("Sam has 2 apples.", max_tokens=6)
    assert asked.value.post_data_json["messages"] == [user("Sam has 2 apples.")]
    visit.becomes("done")
    text = traced(http, messages=[user("Sam has 2 apples.")], max_tokens=6)[0]
    assert visit.turns() == [["user", "Sam has 2 apples."], ["assistant", text]]


def test_a_message_that_is_refused_is_given_back(visit):
    visit.say(QUESTION, max_tokens=4)
    visit.becomes("done")
    turns = visit.turns()
    visit.say("a banana")
    visit.becomes("failed")
    assert "no bananas" in visit.page.inner_text("#alert")
    assert visit.turns() == turns
    expect(visit.page.locator("#message")).to_have_value("a banana")
    expect(visit.page.locator("#message")).to_have_attribute("aria-invalid", "true")
    visit.page.keyboard.type(" no more")
    expect(visit.page.locator("#message")).not_to_have_attribute("aria-invalid", "true")
    visit.finish(told=[400])
    visit.errors.clear()


def test_a_conversation_survives_a_reload_and_ends_with_a_new_chat(visit):
    page = visit.page
    page.fill("#system", "Be brief.")
    visit.say(QUESTION)
    visit.becomes("done")
    turns, coloured, figures = visit.turns(), colours(page), page.inner_text(".figures")
    page.fill("#message", "to be sent")
    page.reload()
    expect(page.locator(".turn")).to_have_count(2)
    assert (visit.turns(), colours(page), page.inner_text(".figures")) == (turns, coloured, figures)
    expect(page.locator("#message")).to_have_value("to be sent")
    expect(page.locator("#system")).to_have_value("Be brief.")
    page.locator(".answer .swapped").first.hover()
    expect(page.locator("#tip s")).to_be_visible()
    page.click("#new-chat")
    assert visit.turns() == []
    expect(page.locator("#suggestions")).to_be_visible()
    page.reload()
    expect(page.locator("#suggestions")).to_be_visible()
    assert visit.turns() == []


def test_a_reload_amid_an_answer_keeps_what_came(visit, chatting):
    visit.ask_for(ignore_eos=True, max_tokens=400)
    visit.say(QUESTION)
    expect(visit.page.locator(".answer > .tok").nth(5)).to_be_attached()
    visit.page.reload()
    expect(visit.page.locator(".turn")).to_have_count(2)
    assert len(visit.turns()[1][1]) > 5
    assert "cut off" in visit.page.inner_text(".figures strong")
    assert chatting.becomes_idle()


def test_what_is_kept_and_cannot_be_read_is_no_conversation(visit):
    for kept in ("no JSON", "3", '[{"role": "assistant", "content": "x"}]', '[{"role": "user"}]', "[null]"):
        # A page that leaves keeps its conversation, so that this is written before the next one reads it.
        visit.page.add_init_script(f"sessionStorage.setItem('cospec.chat chatty', {json.dumps(kept)})")
        visit.page.reload()
        expect(visit.page.locator("#generate")).to_be_enabled()
        assert visit.turns() == []


def test_a_server_that_goes_midway_leaves_what_it_said(browser, members, monkeypatch):
    step = Engine.step

    def slowly(self):
        # The whole answer takes a quarter of a second otherwise, and may be over before the server is.
        time.sleep(0.02)
        return step(self)

    monkeypatch.setattr(Engine, "step", slowly)
    with Served(Ensemble(members[:1], dtype="float32")) as going, visiting(browser, going) as visit:
        visit.ask_for(ignore_eos=True, max_tokens=400)
        visit.say(QUESTION, schedule="plain")
        expect(visit.page.locator(".answer > .tok").nth(5)).to_be_attached()
        going.server.force_exit = going.server.should_exit = True
        visit.becomes("failed")
        assert "cut off" in visit.page.inner_text(".figures strong")
        kept = visit.turns()
        # What is tried again is the answer, which is kept as long as no other comes.
        visit.page.click("#alert button")
        visit.becomes("failed")
        assert visit.turns() == kept


def test_a_comparison_answers_and_shows_plains_answer_beside(visit):
    visit.say(QUESTION, "#compare")
    visit.becomes("done")
    assert text_of(visit.page, "#output-plain") != visit.turns()[1][1] != ""
    assert float(visit.page.inner_text("#ratio strong")[:-1]) > 0
    # Without a message the last answer is compared anew, here as the same seed has it.
    turns = visit.turns()
    visit.page.click("#compare")
    visit.becomes("done")
    assert visit.turns() == turns


def test_a_suggestion_is_asked(visit):
    button = visit.page.locator(".suggestion").first
    question = button.inner_text()
    assert not question.startswith("Question:")
    button.click()
    visit.fill(max_tokens=4)
    visit.page.press("#message", "Enter")
    visit.becomes("done")
    assert visit.turns()[0] == ["user", question]
    expect(visit.page.locator("#suggestions")).to_be_hidden()


def test_text_is_a_choice_that_is_kept(visit, http):
    page = visit.page
    expect(page.locator("#max-tokens")).to_have_value("300")
    page.get_by_role("radio", name="Text").check()
    expect(page.locator("#output")).to_be_visible()
    expect(page.locator("#message")).to_be_hidden()
    expect(page.locator("#max-tokens")).to_have_value("100")
    visit.run()
    visit.becomes("done")
    assert text_of(page) == traced(http)[0]
    page.reload()
    expect(page.locator("#generate")).to_be_enabled()
    expect(page.get_by_role("radio", name="Text")).to_be_checked()
    page.get_by_role("radio", name="Chat").check()
    expect(page.locator("#message")).to_be_visible()


def test_members_without_a_template_are_given_the_plain_form_which_is_said(browser, served):
    with visiting(browser, served) as visit, served.http() as http:
        expect(visit.page.get_by_role("radio", name="Text")).to_be_checked()
        expect(visit.page.locator("#template-hint")).to_be_hidden()
        visit.page.get_by_role("radio", name="Chat").check()
        assert "Without a chat template: math, general." in visit.page.inner_text("#template-hint")
        visit.say(QUESTION)
        visit.becomes("done")
        text = traced(http, prompt=f"Question: {QUESTION}\nAnswer:")[0]
        assert visit.turns()[1] == ["assistant", text]
        visit.finish()


def test_who_has_a_system_message_of_its_own_is_said(browser, members):
    ensemble = Ensemble([Member(model=str(members[0]), system="Count."), str(members[1])], dtype="float32")
    with Served(ensemble, model="own") as running, visiting(browser, running) as visit, running.http() as http:
        assert "Not given to math:" in visit.page.inner_text("#system-hint")
        assert http.get("/v1/models/own").json()["cospec"]["own_systems"] == ["math"]
        # Its text is not told.
        assert "Count." not in http.get("/v1/models").text
        visit.finish()


def test_each_ensemble_has_its_own_conversation(browser, members):
    ensembles = {name: Ensemble([folder], dtype="float32") for name, folder in zip("ab", members, strict=True)}
    with Served(ensembles, model="a") as several, visiting(browser, several) as visit:
        visit.say(QUESTION, schedule="plain", max_tokens=4)
        visit.becomes("done")
        turns = visit.turns()
        visit.page.select_option("#model", "b")
        assert visit.turns() == []
        visit.page.select_option("#model", "a")
        assert visit.turns() == turns
        visit.finish()


@pytest.mark.long
@pytest.mark.parametrize(
    "text",
    ["<img src=x onerror=document.title='taken'>\n**bold**", "W" * 120, "🏳️‍🌈🙂 漢字 " * 4, "שלום עולם " * 6],
    ids=["HTML", "long", "CJK", "RTL"],
)
def test_whatever_is_said_is_shown_as_it_is_and_widens_nothing(browser, chatting, text):
    with visiting(browser, chatting, viewport={"width": 320, "height": 640}) as visit:
        visit.ask_for(guided_choice=[text.strip()], max_tokens=900)
        visit.page.fill("#message", text)
        visit.page.click("#generate")
        visit.becomes("done")
        assert visit.turns() == [["user", text.strip()], ["assistant", text.strip()]]
        assert visit.page.locator("#conversation img").count() == 0
        assert visit.page.eval_on_selector("#conversation", "box => box.scrollWidth - box.clientWidth") <= 0
        assert visit.page.evaluate(FAULTS) == []
        visit.finish()


@pytest.mark.long
@pytest.mark.parametrize(
    ("width", "height", "scheme"),
    [(320, 640, "light"), (390, 844, "dark"), (768, 1024, "light"), (1280, 800, "dark"), (1280, 800, "light")],
)
def test_nothing_is_cut_or_covered_and_axe_finds_nothing(browser, chatting, width, height, scheme):
    size = {"width": width, "height": height}
    with visiting(browser, chatting, viewport=size, color_scheme=scheme) as visit:
        page, axe = visit.page, Axe()
        assert page.evaluate(FAULTS) == []
        found = [axe.run(page)]
        visit.page.eval_on_selector("#settings", "details => { details.open = true; }")
        for message in (QUESTION, SECOND):
            visit.say(message)
            visit.becomes("done")
            assert page.evaluate(FAULTS) == []
        found.append(axe.run(page))
        page.get_by_role("button", name="Edit").first.click()
        page.fill("#message", "a line\n" * 12)
        assert page.evaluate(FAULTS) == []
        found.append(axe.run(page))
        assert [each.generate_report() for each in found if each.violations_count] == []
        visit.finish()


def test_a_phone_shows_the_answer_above_the_message(browser, chatting):
    with visiting(browser, chatting, **PHONE) as visit:
        page = visit.page
        expect(page.locator("#schedule")).to_be_hidden()
        page.tap("#message")
        page.keyboard.type(QUESTION)
        visit.ask_for(seed=3, max_tokens=40)
        page.tap("#generate")
        expect(page.locator("#stop")).to_be_in_viewport()
        visit.becomes("done")
        expect(page.locator(".below")).to_be_in_viewport()
        expect(page.locator("#generate")).to_be_in_viewport(ratio=1)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.get_by_text("Settings").tap()
        expect(page.locator("#schedule")).to_be_visible()
        visit.finish()


def test_nothing_moves_while_an_answer_comes(visit):
    tops = "['#conversation', '#message', '#sheet', '#passes'].map((s) => document.querySelector(s).offsetTop)"
    before = visit.page.evaluate(tops)
    visit.say(QUESTION, max_tokens=60)
    visit.becomes("done")
    assert visit.page.evaluate(tops) == before


def test_the_keyboard_reaches_all_of_a_conversation(visit):
    visit.say(QUESTION)
    visit.becomes("done")
    page, stops = visit.page, []
    for _ in range(12):
        page.keyboard.press("Shift+Tab")
        label, outline = page.evaluate(
            """() => {
              const node = document.activeElement;
              return [node.getAttribute('aria-label') || node.id, getComputedStyle(node).outlineStyle];
            }"""
        )
        assert outline == "solid", label
        stops.append(label)
    assert stops[0] == "Regenerate this answer"
    assert {"Edit this message", "conversation", "new-chat"} <= set(stops)
    assert any("replaced by r" in stop for stop in stops)
