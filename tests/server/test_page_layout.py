"""How the page is laid out, at every width and in both schemes: nothing is cut, covered, uneven or out of reach."""

import itertools

import pytest
from axe_playwright_python.sync_playwright import Axe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import expect

import cospec

from ..browsing import in_chromium
from ..properties import examples
from .conftest import Served
from .visits import visiting

WIDTHS = {320: 640, 390: 844, 768: 1024, 1280: 800}
SCHEMES = ["light", "dark"]
NAMES = ["math", "a-rather-long-model-name-of-a-hub/Instruct-1.5B", "四番目のモデル", "e", "W" * 60]
WEIGHTS = {2: [0.5, 0.5], 3: [0.2, 0.5, 0.3], 5: [0.4, 0.3, 0.1, 0.15, 0.05]}

# What is wrong with the layout, in words: a page that scrolls sideways, controls and hints that cannot be brought
# wholly into view, or lie under something else there, and texts that are cut.
FAULTS = """
() => {
  const faults = [];
  const all = (selector) => [...document.querySelectorAll(selector)].filter((node) => node.checkVisibility());
  const hold = (isWell, node, fault) => {
    if (!isWell) faults.push(`${node.id || node.textContent.trim().slice(0, 40)} ${fault}`);
  };
  hold(document.documentElement.scrollWidth <= innerWidth, document.body, 'scrolls sideways');
  for (const node of all('a, button, input, select, textarea, summary, .hint:not(:empty), #used-seed')) {
    node.scrollIntoView({ block: 'nearest', inline: 'nearest', behavior: 'instant' });
    const { left, right, top, bottom } = node.getBoundingClientRect();
    hold(left >= 0 && right <= innerWidth, node, 'is beyond the edge');
    const isControl = !node.matches('.hint, #used-seed');
    hold(!isControl || Math.min(right - left, bottom - top) >= 24, node, 'is too small for a finger');
    const shows = (y) => node.contains(document.elementFromPoint((left + right) / 2, y));
    hold([top + 2, (top + bottom) / 2, bottom - 2].every(shows), node, 'is covered');
  }
  for (const node of all('button, label:not(.weight *), .numbers dd, .numbers dt, #status, #alert, .hint, .value')) {
    const isBox = getComputedStyle(node).display !== 'inline';
    hold(!isBox || node.scrollWidth <= node.clientWidth, node, 'is cut');
  }
  scrollTo(0, 0);
  return faults;
}
"""

pytestmark = [in_chromium, pytest.mark.long]


@pytest.fixture(scope="module")
def hostile():
    """A server of three members, two of whose names are longer than any column."""
    members = [cospec.Member(model="demo:general", name=name) for name in (NAMES[1], NAMES[4], NAMES[2])]
    with Served(cospec.Ensemble(members, cospec.Product([0.2, 0.5, 0.3]))) as running:
        yield running


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_or_covered(browser, served, width, scheme):
    size = {"width": width, "height": WIDTHS[width]}
    with visiting(browser, served, viewport=size, color_scheme=scheme) as visit:
        visit.fill()
        assert visit.page.evaluate(FAULTS) == []
        visit.run("#compare", schedule="auto", seed="")
        visit.becomes("done")
        assert visit.page.evaluate(FAULTS) == []
        visit.run(temperature=-1)
        visit.becomes("failed")
        assert visit.page.evaluate(FAULTS) == []
        visit.finish(told=[400])


@pytest.mark.hypothesis
def test_nothing_is_cut_or_covered_at_any_size(browser, hostile):
    with visiting(browser, hostile) as visit:
        visit.run("#compare", seed=2**64)
        visit.becomes("done")

        @settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.integers(320, 1700), st.integers(560, 1400))
        def holds(width, height):
            visit.page.set_viewport_size({"width": width, "height": height})
            assert visit.page.evaluate(FAULTS) == []

        holds()
        visit.finish()


def test_the_form_of_two_members_fits_a_small_desktop_window_as_a_whole(browser, served):
    with visiting(browser, served, viewport={"width": 1280, "height": 800}) as visit:
        visit.fill()
        expect(visit.page.locator("#verification-hint")).to_be_in_viewport(ratio=1)
        assert visit.page.eval_on_selector(".fields", "box => box.scrollHeight - box.clientHeight") <= 0


@pytest.mark.parametrize(
    "text", ["W" * 300, "漢字かな" * 30, "🏳️‍🌈🙂" * 20, "שלום עולם " * 20], ids=["word", "CJK", "emoji", "RTL"]
)
def test_long_words_of_any_script_widen_nothing(browser, served, text):
    with visiting(browser, served, viewport={"width": 320, "height": 640}) as visit:
        visit.ask_for(guided_choice=[text], max_tokens=600)
        visit.run()
        visit.becomes("done")
        assert visit.page.inner_text("#output") == text
        assert visit.page.eval_on_selector("#output", "box => box.scrollWidth - box.clientWidth") <= 0
        assert visit.page.evaluate(FAULTS) == []
        visit.finish()


@pytest.mark.parametrize("count", WEIGHTS)
def test_weight_sliders_are_even_and_sum_to_one(browser, count):
    members = [cospec.Member(model="demo:general", name=name) for name in NAMES[:count]]
    ensemble = cospec.Ensemble(members, cospec.Mixture(WEIGHTS[count]))
    with Served(ensemble) as running, visiting(browser, running, viewport={"width": 390, "height": 844}) as visit:
        page = visit.page
        for size in ({"width": 390, "height": 844}, {"width": 1280, "height": 800}):
            page.set_viewport_size(size)
            sliders = [each.bounding_box() for each in page.locator("#sliders input").all()]
            values = [each.bounding_box() for each in page.locator("#sliders output").all()]
            assert len({(round(box["x"], 1), round(box["width"], 1)) for box in sliders}) == 1
            assert len({round(box["x"] + box["width"], 1) for box in values}) == 1
            assert sliders[0]["width"] > 60
        for index, key in itertools.product(range(count), ("End", "ArrowLeft", "Home", "PageUp")):
            page.focus(f"#weight-{index}")
            page.keyboard.press(key)
            shares = page.eval_on_selector_all("#sliders input", "nodes => nodes.map((node) => Number(node.value))")
            assert sum(shares) == pytest.approx(1, abs=1e-6)
            assert min(shares) >= 0.01 - 1e-6
            assert page.inner_text("#weights-sum") == "sum 1.00"
        with page.expect_request("**/v1/completions") as asked:
            visit.run(schedule="plain")
        visit.becomes("done")
        assert asked.value.post_data_json["weights"] == pytest.approx(shares)
        visit.finish()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing(browser, served, scheme):
    with visiting(browser, served, viewport={"width": 390, "height": 844}, color_scheme=scheme) as visit:
        axe = Axe()
        visit.fill()
        found = [axe.run(visit.page)]
        visit.run("#compare", schedule="auto", seed="")
        visit.becomes("done")
        found.append(axe.run(visit.page))
        visit.run(top_p=2)
        visit.becomes("failed")
        found.append(axe.run(visit.page))
        assert [each.generate_report() for each in found if each.violations_count] == []
        visit.finish(told=[400])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_tab_stop_shows_its_focus(browser, served, scheme):
    with visiting(browser, served, color_scheme=scheme) as visit:
        visit.run()
        visit.becomes("done")
        visit.page.focus("nav a")
        stops = set()
        for _ in range(40):
            visit.page.keyboard.press("Tab")
            stop, outline, colour = visit.page.evaluate(
                """() => {
                  const node = document.activeElement;
                  const { outlineStyle, outlineWidth, outlineColor } = getComputedStyle(node);
                  return [node.id || node.tagName, `${outlineStyle} ${outlineWidth}`, outlineColor];
                }"""
            )
            if stop == "BODY":  # the end: the browser's own controls come next
                break
            stops.add(stop)
            assert outline == "solid 2px", stop
            assert colour in ("rgb(31, 95, 191)", "rgb(143, 188, 255)"), stop
        assert {
            "prompt",
            "schedule",
            "weight-1",
            "seed",
            "generate",
            "compare",
            "copy-seed",
            "output",
            "sheet",
        } <= stops
        visit.finish()


def test_nothing_moves_by_itself_for_those_who_ask_for_calm(browser, served):
    with visiting(browser, served, reduced_motion="reduce") as visit:
        visit.ask_for(ignore_eos=True, max_tokens=400)
        visit.run()
        visit.becomes("streaming")
        assert visit.page.evaluate("document.getAnimations().length") == 0
        visit.page.click("#stop")
        visit.becomes("stopped")
