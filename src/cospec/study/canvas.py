"""What plots are drawn with, colours and fonts, and written as: an <svg> for the page, or files."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import MissingExtra

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullLocator
    from matplotlib.transforms import blended_transform_factory, offset_copy
except ImportError:
    raise MissingExtra(
        "plots need matplotlib: pip install 'cospec[pilot]' or 'cospec[bench]', or add --no-plots to `cospec bench`"
    ) from None

# The parts of matplotlib that plots are made of come from here, where its absence is told.
__all__ = [
    "COLOURS",
    "LABEL_SIZE",
    "TICK_SIZE",
    "Axes",
    "Draw",
    "Figure",
    "MaxNLocator",
    "NullLocator",
    "blended_transform_factory",
    "offset_copy",
    "save",
    "svg",
]

# A plot of a width.
Draw: TypeAlias = Callable[[float], Figure]

# The page's colours by name, as they are in light mode: Okabe and Ito's hues, made darker for their contrast.
COLOURS = {
    "ink": "#1f2228",
    "soft": "#5a5e68",
    "line": "#e5e1d8",
    "edge": "#8b8d94",
    "card": "#fffefb",
    "neutral": "#767a83",
    "c0": "#0072b2",
    "c1": "#c95600",
    "c2": "#00805f",
    "c3": "#b0568f",
    "c4": "#946a00",
    "c5": "#2f7dab",
    "c6": "#6c5bb0",
}
LABEL_SIZE, TICK_SIZE = 13, 12

_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["soft"],
    "axes.labelsize": TICK_SIZE,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": LABEL_SIZE,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "xtick.labelsize": TICK_SIZE,
    "ytick.labelsize": TICK_SIZE,
    "legend.frameon": False,
    "lines.solid_capstyle": "butt",
}


def svg(draw: Draw, width: float, title: str, classes: str) -> str:
    """An <svg> for the page: its text is text, its colours are the page's, and it is the same on every run.

    title: read out instead of it.
    """
    buffer = StringIO()
    # Identifiers are hashes: of another salt for each plot, since all of them stand in one page.
    with _drawing(f"{title} {classes}"):
        draw(width).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    _, _, inside = buffer.getvalue().partition("<defs>\n  <style")
    _, _, inside = inside.partition("</defs>")
    # Within text < is escaped, so that these are the tags.
    inside = re.sub(r"<[^<>]+>", lambda tag: _for_page(tag[0]), inside)
    view_box = re.search(r'viewBox="[^"]+"', buffer.getvalue())
    assert view_box is not None
    label = escape(title, quote=True)
    return f'<svg class="plot {classes}" {view_box[0]} role="img" aria-label="{label}">{inside.strip()}'


def _for_page(tag: str) -> str:
    """The page's fonts and colours, and only the names given above, as classes."""
    tag = re.sub(r" font-family: [^;]+;", "", tag)
    tag = re.sub(r'<g id="([a-z]+-[a-z0-9]+|reference)"', r'<g class="\1"', tag)
    tag = re.sub(r'<g id="[^"]+"', "<g", tag)
    for name, colour in COLOURS.items():
        tag = tag.replace(colour, f"var(--{name})")
    return tag


def save(draw: Callable[[], Figure], stem: Path) -> list[Path]:
    """As .svg and .png."""
    paths = [stem.with_suffix(".svg"), stem.with_suffix(".png")]
    with _drawing(stem.name):
        figure = draw()
        for path in paths:
            dates = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(path, bbox_inches="tight", pad_inches=0.2, dpi=144, metadata=dates)
    return paths


@contextmanager
def _drawing(salt: str) -> Iterator[None]:
    """matplotlib's settings while a plot is drawn. Its fonts lack Japanese letters, which the page's have."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield
