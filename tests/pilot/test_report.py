"""The report, opened in Chromium: all of it is there in both languages, asks nothing of a network, and computes."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter
from typing import get_args

import pytest
from playwright.sync_api import expect

from cospec import Chat
from cospec.errors import UnknownName
from cospec.study.criteria import RULES, Criteria
from cospec.study.pilot_results import results
from cospec.study.prices import Prices
from cospec.study.questions import Question
from cospec.study.report import LANGUAGES, markdown, write
from cospec.study.report.filters import amount, money, plain
from cospec.study.report.texts import load_texts
from cospec.study.results import ALL, PLAIN, Interval, Reason, Results

from ..browsing import in_chromium
from .studies import finished, study

EXAMPLE = Results.load(Path(__file__).parent / "data" / "example.json")
HOSTILE = '<script>document.title="owned"</script><img src=x onerror=alert(1)>|`*"\'&</script>'
SECTIONS = ("verdict", "speed", "kept", "gained", "cost", "relaxed", "mechanism", "setting")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The file of a study's report, whose plots take a second to draw: written once."""
    files = {}

    def file_of(results, language):
        key = json.dumps(results.to_dict()), language
        if key not in files:
            folder = tmp_path_factory.mktemp("report")
            write(results, folder, language)
            files[key] = folder / "report.html"
        return files[key]

    return file_of


@pytest.fixture
def visit(opened, written):
    """Open a study's report."""

    def visited(results, language="en", *, width=1100, scheme="light"):
        return opened(written(results, language), width=width, scheme=scheme)

    return visited


def hooked(page, name):
    """What stands at that hook, which must be one text in all its places."""
    texts = page.locator("[data-hook]").evaluate_all(
        "(all, name) => all.filter(each => each.dataset.hook === name).map(each => each.textContent)", name
    )
    assert len({*texts}) == 1, (name, texts)
    return texts[0]


def without_figures(results):
    """The same study, interrupted before anything was measured."""
    bare = Results.from_dict(json.loads(json.dumps(results.to_dict())))
    speed = replace(bare.speed, rows=(), pays_up_to={}, best_plan="")
    kept = replace(bare.kept, checks=(), is_exact=None, greedy=None, score=None, score_reason="no references")
    gained = replace(
        bare.gained, scores=(), best_by_score=None, score_gain=None, score_reason="no references", perplexities=(),
        best_by_perplexity=None, perplexity_gain=None, perplexity_reason="no texts", texts_source=None,
    )  # fmt: skip
    cost = replace(bare.cost, rows=(), saving_per_month=None, saving_reason="no such concurrency", memory_total=None)
    rules = tuple(
        replace(rule, value=None, low=None, high=None, status="not measured", reason="no such concurrency")
        for rule in bare.verdict.rules
    )
    names = tuple(rule.name for rule in rules if rule.is_required)
    verdict = replace(bare.verdict, decision="not decided", up_to=0, rules=rules, blocking=(), unmeasured=names)
    mechanism = replace(bare.mechanism, rows=())
    return replace(
        bare, speed=speed, kept=kept, gained=gained, cost=cost, verdict=verdict, mechanism=mechanism, relaxed=None,
        measurements=(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def small(pair):
    """A study of tiny models with no references, no texts, no prices, and one concurrency."""
    questions = [Question(prompt=text, where="test:1", id=text, category="one") for text in ("a b", "two", "x")]
    return finished(
        pair, questions=questions, texts=(), prices=Prices(), concurrencies=(1,), num_prompts=3, criteria=Criteria()
    )


# The texts of both languages.


def fields(text):
    return sorted(name for _, name, _, _ in Formatter().parse(text) if name)


def test_both_languages_have_every_text_with_the_same_fields():
    english, japanese = (load_texts(language).table for language in LANGUAGES)
    assert english.keys() == japanese.keys()
    for key, text in english.items():
        assert text.strip(), key
        assert japanese[key].strip(), key
        assert {*fields(japanese[key])} == {*fields(text)}, key


@pytest.mark.parametrize(("language", "told"), [("en", "1 of 3"), ("ja", "3 件中 1 件")])
def test_chats_among_the_prompts_are_counted(pair, language, told):
    chat = Chat(messages=({"role": "user", "content": "two models?"},), plain=True)
    questions = [Question(prompt=prompt, where="test:1", id="1") for prompt in ("a b", chat, "x")]
    made = results(study(pair, questions=questions))
    assert [prompt.is_chat for prompt in made.settings.prompts] == [False, True, False]
    # What a chat is put into is counted with it.
    assert made.settings.prompts[1].num_tokens == len(pair.rendered(chat)[0])
    assert told in markdown(made, language)
    assert load_texts(language)("setting.chats") not in markdown(EXAMPLE, language)


def test_every_japanese_text_is_japanese():
    table = load_texts("ja").table
    kana = re.compile(r"[\u3041-\u30ff\u4e00-\u9fff]")
    alike = {"method.plain", "method.auto", "method.alternate", "word.comma", "word.range", "word.at"}
    alike |= {"verdict.rule says"}
    assert {key for key, text in table.items() if not kana.search(text)} == alike


def test_every_rule_and_reason_has_its_texts():
    table = load_texts("en").table
    assert {f"rule.{rule}" for rule in RULES} | {f"rule.{rule} says" for rule in RULES} <= table.keys()
    assert {f"reason.{reason}" for reason in get_args(Reason) if reason} <= table.keys()


def test_a_language_that_there_is_none_of_is_refused_by_name(tmp_path):
    with pytest.raises(UnknownName, match="en, ja"):
        write(EXAMPLE, tmp_path, "fr")
    assert not list(tmp_path.iterdir())


class Texts(HTMLParser):
    """What a reader sees of a page."""

    def __init__(self, page):
        super().__init__()
        self.inside, self.seen = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & {*self.inside} and data.strip():
            self.seen.append(data.strip())


def sentences(table):
    """Texts without fields: those that stand in a report word by word."""
    return {text for text in table.values() if not fields(text)}


def test_no_sentence_of_one_language_stands_in_the_report_of_the_other(written, small):
    tables = {language: sentences(load_texts(language).table) for language in LANGUAGES}
    alike = tables["en"] & tables["ja"]
    names = {*small.settings.members, *small.settings.categories, *EXAMPLE.settings.categories, "drafter", "lookup"}
    for found in (EXAMPLE, small, without_figures(EXAMPLE)):
        for language, other in (("en", "ja"), ("ja", "en")):
            page = written(found, language)
            seen = {*Texts(page.read_text(encoding="utf-8")).seen}
            assert len(seen & tables[language]) > 60
            assert seen & (tables[other] - alike) - names == set()
            pasted = page.with_name("report.md").read_text(encoding="utf-8")
            long = {plain(text) for text in tables[other] - alike if len(text) > 24}
            assert [text for text in long if text in pasted] == []
            assert "{" not in pasted


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_report_without_its_libraries_says_how_to_get_them(library):
    code = f"import sys; sys.modules[{library!r}] = None; import cospec.study.report"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "MissingExtra" in run.stderr
    assert "pip install 'cospec[pilot]'" in run.stderr


# The page.


@in_chromium
@pytest.mark.parametrize("language", LANGUAGES)
def test_verdict_tables_and_plots_are_there(visit, language):
    page, say = visit(EXAMPLE, language), load_texts(language)
    assert page.locator("html").get_attribute("lang") == language
    assert page.locator("section").evaluate_all("all => all.map(each => each.id)") == list(SECTIONS)
    values = {"up_to": say("word.at once", {"num": 1})}
    assert page.locator(".decision").inner_text() == say(f"verdict.{EXAMPLE.verdict.decision}", values)
    # The verdict comes first: a reader sees it without scrolling.
    assert page.locator(".decision").bounding_box()["y"] < 450
    rules = page.locator("#verdict tbody tr")
    assert rules.count() == len(EXAMPLE.verdict.rules)
    for row, rule in zip(rules.all(), EXAMPLE.verdict.rules, strict=True):
        assert row.locator("td").first.locator("span").inner_text() == say(f"status.{rule.status}")
    # What stands behind the decision is one click away, and the page short without it.
    assert page.evaluate("document.documentElement.scrollHeight") < 5000
    for section in SECTIONS:
        details = page.locator(f"#{section} details")
        assert details.count() == 1
        for folded in (details.locator("table"), details.locator(".formulas li"), details.locator("svg.plot")):
            assert not any(each.is_visible() for each in folded.all())
        details.locator("summary").click()
        assert details.locator(".formulas li").first.is_visible()
    rows = [row for row in EXAMPLE.speed.rows if row.category == ALL]
    assert page.locator("#speed table").last.locator("tbody tr").count() == len(rows)
    for section, least in {"speed": 3, "mechanism": 2, "gained": 2, "relaxed": 2}.items():
        drawn = page.locator(f"#{section} svg.plot:visible")
        assert drawn.count() >= least, section
        assert page.locator(f"#{section} svg.plot").count() == 2 * drawn.count()
        for plot in drawn.all():
            assert plot.get_attribute("aria-label")
            assert plot.locator("path").count() >= 2
    bars = page.locator("#cost .bars")
    assert bars.get_attribute("aria-label")
    assert bars.locator("[data-bar]").count() >= 2


@in_chromium
def test_the_interval_on_the_plot_is_that_of_the_study(visit):
    page = visit(EXAMPLE)
    row = EXAMPLE.speed.row(EXAMPLE.settings.ours, EXAMPLE.verdict.concurrency)
    plot = page.locator("#speed svg.plot").first
    assert f"{row.over_plain.mean:.2f}× ({row.over_plain.low:.2f}× to {row.over_plain.high:.2f}×)" in plot.inner_html()
    mark, bar, one = (
        plot.locator(selector).last.bounding_box() for selector in (".mark-c0", ".interval-c0", ".reference")
    )
    over = row.over_plain
    place = (mark["x"] + mark["width"] / 2 - bar["x"]) / bar["width"]
    assert place == pytest.approx((over.mean - over.low) / (over.high - over.low), abs=0.03)
    assert (bar["x"] > one["x"]) == (row.over_plain.low > 1)


@in_chromium
def test_the_raw_data_come_out_as_they_went_in(visit, tmp_path):
    page = visit(EXAMPLE)
    with page.expect_download() as started:
        page.click("#download")
    assert started.value.suggested_filename == "results.json"
    started.value.save_as(tmp_path / "again.json")
    assert Results.load(tmp_path / "again.json") == EXAMPLE


@in_chromium
def test_editing_a_price_changes_the_costs_and_the_saving(visit):
    page, currency = visit(EXAMPLE), EXAMPLE.settings.prices.currency
    ours, planned = EXAMPLE.settings.ours, EXAMPLE.verdict.concurrency
    own, plain_row = (EXAMPLE.cost.row(name, planned) for name in (ours, PLAIN))
    key = f"{ours}@{planned}"
    before = {name: hooked(page, name) for name in (f"total:{key}", "saving", "tile", "tile-says")}
    assert before[f"total:{key}"] == money(own.money, currency)

    # What the script computes of the study's own prices is what the study says.
    page.locator("[data-price=per_hour]").dispatch_event("input")
    assert {name: hooked(page, name) for name in before} == before
    assert hooked(page, "edited") == ""

    page.fill("[data-price=per_hour]", "7.5")
    page.fill("[data-price=volume]", "2e9")
    million = {row.method: 7.5 / (row.tokens_per_second * 3600) * 1e6 for row in (own, plain_row)}
    assert hooked(page, f"total:{key}") == money(million[ours], currency) == hooked(page, "tile")
    saved = amount(abs(million[PLAIN] - million[ours]) * 2000)
    assert f"{saved} {currency}" in hooked(page, "saving")
    assert "verdict stands" in hooked(page, "edited")

    page.fill("[data-price=per_hour]", "")
    assert hooked(page, f"total:{key}") == "–"
    page.click("#prices button")
    # The page's policy lets nothing be evaluated, as a wait for a function would where it does not hold at once.
    expect(page.locator("[data-hook=edited]")).to_have_text("")
    assert {name: hooked(page, name) for name in before} == before


@pytest.mark.long
@in_chromium
def test_a_study_without_prices_takes_the_readers(visit, small):
    page = visit(small)
    assert hooked(page, "total:auto@1") == "–"
    page.fill("[data-price=per_hour]", "3.6")
    assert hooked(page, "total:auto@1") == money(1000 / small.cost.row("auto", 1).tokens_per_second, "USD")
    bar = page.locator("[data-bar='auto@1']").bounding_box()
    assert bar["width"] > 20
    assert page.locator("[data-hook=saving]").inner_text() == load_texts("en")("cost.no saving yet")


def paying(results):
    """The same study, with electricity paid for apart."""
    prices = replace(results.settings.prices, electricity_per_kwh=0.3)
    return replace(results, settings=replace(results.settings, prices=prices))


@pytest.mark.long
@in_chromium
def test_energy_counts_where_it_was_measured_and_is_paid_for(visit):
    rows = tuple(replace(row, kwh=2.0, energy_money=0.6, total=row.money + 0.6) for row in EXAMPLE.cost.rows)
    page = visit(paying(replace(EXAMPLE, cost=replace(EXAMPLE.cost, rows=rows, energy_source="rapl"))))
    own = rows[4]
    key = f"{own.method}@{own.concurrency}"
    assert hooked(page, f"total:{key}") == money(own.money + 0.6, "USD")
    page.fill("[data-price=per_kwh]", "1")
    assert hooked(page, f"energy:{key}") == money(2, "USD")
    assert hooked(page, f"total:{key}") == money(own.money + 2, "USD")


@pytest.mark.long
@in_chromium
@pytest.mark.parametrize("language", LANGUAGES)
def test_energy_that_was_not_measured_makes_no_cost_where_it_is_paid_for(visit, language):
    rows = tuple(replace(row, total=None) for row in EXAMPLE.cost.rows)
    cost = replace(EXAMPLE.cost, rows=rows, saving_per_month=None, saving_reason="machine does not tell")
    page, say = visit(paying(replace(EXAMPLE, cost=cost)), language), load_texts(language)
    own = EXAMPLE.cost.row(EXAMPLE.settings.ours, EXAMPLE.verdict.concurrency)
    key = f"{own.method}@{own.concurrency}"
    names = (f"total:{key}", "saving", "tile", "tile-says")
    before = {name: hooked(page, name) for name in names}
    assert before[f"total:{key}"] == before["tile"] == "–"
    assert say("reason.machine does not tell") in before["tile-says"]
    assert say("reason.machine does not tell") in before["saving"]
    page.locator("[data-price=per_hour]").dispatch_event("input")
    assert {name: hooked(page, name) for name in names} == before
    # Whoever does not pay for it apart has a cost.
    page.fill("[data-price=per_kwh]", "")
    assert hooked(page, f"total:{key}") == money(own.money, "USD")


@pytest.mark.long
@in_chromium
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_phone_scrolls_no_page_sideways(visit, small, language):
    for found in (EXAMPLE, small, hostile(EXAMPLE)):
        page = visit(found, language, width=360)
        page.locator("details").evaluate_all("all => all.forEach(each => { each.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        sizes = page.locator("svg.plot text").evaluate_all("all => all.map(each => getComputedStyle(each).fontSize)")
        assert min(float(size.removesuffix("px")) for size in sizes) >= 12


@pytest.mark.long
@in_chromium
def test_what_is_folded_is_open_on_paper_and_as_before_behind_it(visit):
    page = visit(EXAMPLE)
    page.locator("#speed summary").click()
    is_open = "all => all.map(each => each.open)"
    before = page.locator("details").evaluate_all(is_open)
    assert sum(before) == 1
    page.evaluate(
        "window.addEventListener('beforeprint', () => { window.seen = [...document.querySelectorAll('details')]"
        ".every(each => each.open); })"
    )
    page.pdf()
    assert page.evaluate("window.seen") is True
    assert page.locator("details").evaluate_all(is_open) == before


@pytest.mark.long
@in_chromium
def test_the_page_is_dark_where_the_reader_wants_it_and_light_on_paper(visit):
    def brightness(page, selector, name):
        colour = page.eval_on_selector(selector, f"each => getComputedStyle(each).{name}")
        return sum(map(float, re.findall(r"[\d.]+", colour)[:3]))

    page = visit(EXAMPLE, scheme="dark")
    assert brightness(page, "section", "backgroundColor") < 120 < brightness(page, ".note", "color")
    assert brightness(page, ".plot text", "fill") > 500
    page.emulate_media(media="print", color_scheme="dark")
    assert brightness(page, "section", "backgroundColor") > 700 > brightness(page, ".note", "color")
    assert not page.locator("nav").is_visible()
    assert brightness(visit(EXAMPLE), "section", "backgroundColor") > 700


def hostile(results):
    """Names that are markup, wherever a user gives names."""
    text = json.dumps(results.to_dict())
    for name in ("math", "sums", "demo:we", "USD", "two cores"):
        text = text.replace(json.dumps(name), json.dumps(name + HOSTILE))
    text = text.replace('"single:math"', json.dumps("single:math" + HOSTILE))
    return Results.from_dict(json.loads(text))


@in_chromium
def test_names_that_are_markup_stay_text(visit):
    page = visit(hostile(EXAMPLE))
    assert page.title() != "owned"
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator("h1").inner_text()
    assert any(HOSTILE in text for text in page.locator("#speed tbody th").all_text_contents())
    page.fill("[data-price=per_hour]", "7")
    assert HOSTILE in hooked(page, "tile")
    assert page.locator("img").count() == 0
    pasted = re.sub(r"\\<", "", markdown(hostile(EXAMPLE), "en"))
    assert "<script" not in pasted
    assert "<img" not in pasted


@in_chromium
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_was_not_measured_is_said_to_be_so(visit, small, language):
    page, say = visit(small, language), load_texts(language)
    for section, reason in {"kept": "no references", "gained": "no texts", "cost": "no prices"}.items():
        assert say(f"reason.{reason}") in page.locator(f"#{section}").inner_text(), section
    one = say("speed.one concurrency", {"at": say("word.at once", {"num": 1})})
    assert one in page.locator("#speed").inner_text()
    assert say("relaxed.not asked") in page.locator("#relaxed").inner_text()
    assert "None" not in page.locator("body").inner_text()
    assert "nan" not in page.locator("main").inner_html()


@in_chromium
def test_a_study_that_was_interrupted_says_what_is_missing(visit, pair):
    stopped = study(pair)
    left = iter([False] * 3)
    stopped.run(lambda step: None, lambda: next(left, True))
    page = visit(results(stopped))
    assert page.locator(".decision").inner_text() == "NOT DECIDED"
    assert load_texts("en")("verdict.says unfinished") in page.locator(".banner").inner_text()
    assert "alternate (CoS) at concurrency 2" in page.locator("#verdict > .note").first.inner_text()
    page = visit(without_figures(EXAMPLE), "ja")
    assert "未測定" in page.locator("#speed").inner_text()
    assert page.locator("#verdict td .unknown").count() == len(EXAMPLE.verdict.rules)


@pytest.mark.long
@in_chromium
def test_a_verdict_up_to_fewer_texts_says_how_many(visit):
    verdict = replace(EXAMPLE.verdict, decision="go up to", concurrency=8, up_to=1, blocking=("min_speedup",))
    page = visit(replace(EXAMPLE, verdict=verdict))
    assert page.locator(".decision").inner_text() == "GO up to concurrency 1"
    assert "Speed over plain" in page.locator(".banner").inner_text()


@pytest.mark.parametrize(
    ("language", "line"),
    [
        ("en", "Tested against plain: auto, its choice · fixed; verification: block · coupled."),
        ("ja", "plain と比較したもの：auto, its choice · fixed。検証方式：block · coupled。"),
    ],
)
def test_what_was_tested_for_exactness_stands_in_one_line(language, line):
    first = EXAMPLE.kept.checks[0]
    cases = [("auto, its choice", "block"), ("auto, its choice", "coupled"), ("fixed", "block")]
    checks = tuple(replace(first, schedule=schedule, verification=kind) for schedule, kind in cases)
    study = replace(EXAMPLE, kept=replace(EXAMPLE.kept, checks=checks))
    section = markdown(study, language).split("\n## ")[3]
    assert line in section.split("<details>")[0]
    assert load_texts(language)("kept.exact", {"num": 3}) in section
    unfinished = replace(study, kept=replace(study.kept, is_exact=None))
    assert load_texts(language)("kept.unfinished", {"num": 3}) in markdown(unfinished, language)


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize(
    ("spread", "held_up", "is_said"),
    [(None, None, False), (1.1, 1.2, False), (1.4, 1.2, True), (1.03, 4.9, True)],
)
def test_a_machine_that_was_disturbed_is_told_beside_the_verdict(language, spread, held_up, is_said):
    machine = replace(EXAMPLE.environment, spread=spread, held_up=held_up)
    verdict = markdown(replace(EXAMPLE, environment=machine), language).split("\n## ")[1]
    figures = {"spread": f"{spread or 0:.2f}×", "held_up": f"{held_up or 0:.2f}×"}
    said = load_texts(language)("speed.disturbed", {**figures, "most": "1.25×", "most_held_up": "1.50×"})
    assert (said in verdict) == is_said


def test_figures_without_end_are_null_in_the_page(tmp_path):
    write(replace(EXAMPLE, environment=replace(EXAMPLE.environment, seconds=math.inf)), tmp_path, "en")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="results">(.*?)</script>', page)
    found = json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["environment"]["seconds"] is None


def test_categories_that_have_no_name_of_their_own_are_called_so_in_both_languages(tmp_path, pair):
    questions = [Question(prompt=text, where="test:1", id=text, reference="b") for text in ("a b", "two", "x")]
    made = study(pair, questions=questions, concurrencies=(1,))
    write(results(made), tmp_path, "ja")
    assert '<th scope="row"><span class="">プロンプト</span></th>' in (tmp_path / "report.html").read_text(
        encoding="utf-8"
    )
    assert "prompts" not in Texts((tmp_path / "report.html").read_text(encoding="utf-8")).seen


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("en", "Whether auto is faster than plain is not certain (no interval, n = 2)."),
        ("ja", "auto が plain より速いとは断定できません（信頼区間なし、n = 2）。"),
    ],
)
def test_a_speed_without_an_interval_is_said_to_have_none(language, sentence):
    few = Interval(mean=1.4, low=None, high=None, num=2)
    rows = tuple(replace(row, over_plain=row.over_plain and few) for row in EXAMPLE.speed.rows)
    assert sentence in markdown(replace(EXAMPLE, speed=replace(EXAMPLE.speed, rows=rows)), language)


def test_the_markdown_has_every_section_and_whole_tables(written):
    for language in LANGUAGES:
        text = written(EXAMPLE, language).with_name("report.md").read_text(encoding="utf-8")
        assert text.count("\n## ") == len(SECTIONS)
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len(rows) > 60
        widths: list[int] = []
        for before, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
            if line.startswith("|"):
                width = len(re.findall(r"(?<!\\)\|", line))
                assert not before.startswith("|") or width == widths[-1], line
                widths.append(width)
