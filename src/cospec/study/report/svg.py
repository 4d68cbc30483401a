"""SVG by hand. Along x everything is a percentage of the width, so that a plot fills a desk or a phone with its
letters at one size; colours are the page's, so that it is light or dark with it."""

from collections.abc import Mapping
from html import escape

# A marker a series, so that they differ without colour too.
MARKERS = ("M0-5A5 5 0 1 0 0 5A5 5 0 1 0 0-5Z", "M-4.5-4.5H4.5V4.5H-4.5Z", "M0-6L6 0L0 6L-6 0Z", "M0-5.5L5.5 4.5H-5.5Z")


def element(name: str, attributes: Mapping[str, object], *inside: str) -> str:
    """inside: elements, or text that is escaped already."""
    written = "".join(f' {key}="{escape(_short(value))}"' for key, value in attributes.items())
    return f"<{name}{written}>{''.join(inside)}</{name}>"


def drawing(height: float, title: str, *inside: str) -> str:
    """A plot. title: what is read out instead of it."""
    attributes = {"class": "plot", "width": "100%", "height": height, "role": "img", "aria-label": title}
    return element("svg", attributes, *inside)


def text(x: str, y: float, words: str, classes: str = "", anchor: str = "start", hook: str = "") -> str:
    attributes: dict[str, object] = {"x": x, "y": y, "class": classes, "text-anchor": anchor}
    return element("text", attributes | ({"data-hook": hook} if hook else {}), escape(words))


def line(start: tuple[str, float], end: tuple[str, float], classes: str) -> str:
    """From (x, y) to (x, y)."""
    return element("line", {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1], "class": classes})


def rectangle(x: str, y: float, width: str, height: float, classes: str, hook: str = "") -> str:
    attributes: dict[str, object] = {"x": x, "y": y, "width": width, "height": height, "class": classes}
    return element("rect", attributes | ({"data-bar": hook} if hook else {}))


def marker(x: str, y: float, classes: str, shape: int = 0) -> str:
    path = element("path", {"d": MARKERS[shape % len(MARKERS)], "class": classes})
    return element("svg", {"x": x, "y": y, "overflow": "visible"}, path)


def share(value: float) -> str:
    """A place or width along x, from 0 to 1."""
    return f"{100 * value:.4g}%"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
