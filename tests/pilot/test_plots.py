"""The plots of the report and of a benchmark: whole, the same on every run, and safe to embed."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cospec.study.canvas import COLOURS, svg
from cospec.study.drawing import MARKER, Estimate, Point, Series, Stack, amounts, intervals, lines, stacked
from cospec.study.plots import plot

from ..properties import examples

INFINITE = Estimate(label="#0072b2", mean=math.inf, low=1.0, high=math.inf, written="∞")
LONG = "a member of a very long name that would run into the figure beside it on a phone"
ESTIMATES = [
    Estimate(label="$x$ <b>&", mean=1.3, low=1.2, high=1.45, written="1.30× (1.20× to 1.45×)"),
    Estimate(label="同時処理数の多い方式", mean=0.9, written="0.90×", colour="neutral"),
    Estimate(label=LONG, mean=1.0, low=1.0, high=1.0, written="1.00×"),
]
INFINITE_POINT = Series(label="a", colour="c2", points=(Point(x=1, mean=math.inf, low=0.0, high=math.inf),))
COUNTS = Series(label="a", colour="c2", points=tuple(Point(x=x, mean=1 / x) for x in range(1, 17)))
LEVELS = Series(label="b", colour="c0", points=tuple(Point(x=x, mean=x, low=0.5 * x, high=2 * x) for x in (1, 8, 32)))
DRAWN = {
    "intervals": lambda width: intervals(width, ESTIMATES, 1, "{:g}×".format),
    "one value": lambda width: intervals(width, ESTIMATES[2:], 1, "{:g}×".format),
    "amounts": lambda width: amounts(width, ESTIMATES),
    "infinite interval": lambda width: intervals(width, [INFINITE, *ESTIMATES], 1, "{:g}×".format),
    "infinite amount": lambda width: amounts(width, [INFINITE, *ESTIMATES]),
    "infinite point": lambda width: lines(width, [INFINITE_POINT, COUNTS], "{:g}".format, x_label="x"),
    "nothing": lambda width: amounts(width, [Estimate(label="a", mean=0.0, written="–")]),
    "stacked": lambda width: stacked(width, [Stack(label="a", written="3 s", parts=((1.0, "c2"), (2.0, "c3")))]),
    "counts": lambda width: lines(width, [COUNTS], "{:g}".format, x_label="draft", reach=[0, 1]),
    "levels": lambda width: lines(width, [LEVELS], "{:g}".format, x_label="同時", levels=[1], is_logarithmic=True),
    "one level": lambda width: lines(
        width, [Series(label="a", colour="c1", points=LEVELS.points[:1])], str, x_label=""
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_plot_is_the_same_on_every_run_and_takes_its_colours_from_the_page(name):
    drawn = svg(DRAWN[name], 340, "a <title>", "narrow")
    assert drawn == svg(DRAWN[name], 340, "a <title>", "narrow")
    assert not any(f": {colour}" in drawn for colour in COLOURS.values())
    root = ElementTree.fromstring(drawn.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))
    assert root.get("aria-label") == "a <title>"
    names = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(names) == len({*names})


def test_two_plots_of_one_page_share_no_identifiers():
    def names(title):
        return {*re.findall(r' id="([^"]+)"', svg(DRAWN["levels"], 340, title, "narrow"))}

    assert names("a")
    assert not names("a") & names("b")


def texts(drawn):
    root = ElementTree.fromstring(drawn.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))
    return [element.text for element in root.iter("text")]


def test_words_stay_words_and_long_ones_are_cut_short():
    wide, narrow = (texts(svg(DRAWN["intervals"], width, "", "")) for width in (760, 340))
    assert {"$x$ <b>&", "同時処理数の多い方式", LONG, "1.30× (1.20× to 1.45×)"} <= {*wide}
    (cut,) = [text for text in narrow if text.startswith("a member")]
    assert LONG.startswith(cut.removesuffix("…"))
    assert len(cut) < len(LONG)


def test_a_name_that_looks_like_a_colour_stays_as_it_is():
    assert "#0072b2" in texts(svg(DRAWN["infinite amount"], 340, "", ""))


def test_counts_have_whole_ticks():
    ticks = [text for text in texts(svg(DRAWN["counts"], 340, "", "")) if text != "draft"]
    of_x = ticks[: ticks.index("0")]
    assert all(re.fullmatch(r"\d+", tick) for tick in of_x), of_x
    assert {"1", "8", "32"} <= {*texts(svg(DRAWN["levels"], 340, "", ""))}


def series_of(counts, means):
    return [
        Series(
            label=str(i), colour=f"c{i % 7}", points=tuple(Point(x=x, mean=y) for x, y in zip(counts, row, strict=True))
        )
        for i, row in enumerate(means)
    ]


@settings(max_examples=examples(10), deadline=None)
@given(data=st.data(), width=st.sampled_from([340, 760]), is_logarithmic=st.booleans())
def test_counts_have_whole_ticks_apart_and_markers_stand_clear_of_the_frame(data, width, is_logarithmic):
    counts = sorted(data.draw(st.sets(st.integers(1, 300), min_size=1, max_size=40)))
    share = st.floats(0, 1) | st.sampled_from([0.0, 1.0])
    row = st.lists(share, min_size=len(counts), max_size=len(counts))
    series = series_of(counts, data.draw(st.lists(row, min_size=1, max_size=7)))
    figure = lines(width, series, "{:g}".format, x_label="n", reach=[0, 1], is_logarithmic=is_logarithmic)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert [*map(int, ticks)] == [*axes.get_xticks()]
    assert {*map(int, ticks)} <= {*counts}
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(before.x1 < after.x0 for before, after in itertools.pairwise(boxes))
    frame, radius = axes.get_window_extent(), MARKER / 2
    for drawn in [line for line in axes.lines if line.get_marker() not in ("None", None, "")]:
        places = drawn.get_transform().transform(drawn.get_xydata())
        assert places[:, 0].min() - radius >= frame.x0 - 0.01
        assert places[:, 0].max() + radius <= frame.x1 + 0.01
        assert places[:, 1].min() - radius >= frame.y0 - 0.01
        assert places[:, 1].max() + radius <= frame.y1 + 0.01


def test_a_benchmark_gets_a_picture_of_each_table(tmp_path):
    ratio = {"mean": 1.2, "low": None, "high": None}
    whole = {"mean": 1.2, "low": 1.1, "high": 1.3}
    figures = {
        "methods": {
            "plain": {"over_plain": None},
            "auto": {
                "over_plain": whole,
                "acceptance_by_place": {"drafter": [0.9, None, 0.5], "lookup": []},
                "acceptance": 0.9,
            },
            "fixed": {"over_plain": ratio},
        },
        "sweeps": {"gamma": {1.0: {"fixed": whole}, 2.0: {"fixed": whole, "auto": None}}},
        "concurrency": {"plain": {1: 10.0, 8: 60.0}, "auto": {1: 15.0, 8: 55.0}},
    }
    written = plot(figures, tmp_path)
    names = ("speed", "acceptance", "speed-by-gamma", "concurrency")
    assert written == [tmp_path / f"{name}.{kind}" for name in names for kind in ("svg", "png")]
    assert all(path.stat().st_size > 1000 for path in written)
