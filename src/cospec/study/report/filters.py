"""How figures and names are written, in both languages alike: amounts as the page's script writes them too."""

import re

GIB, MIB = 2**30, 2**20
# An underscore within a word is none of Markdown's.
_MARKUP = re.compile(r"[\\`*\[\]<>|~$]|(?<!\w)_|_(?!\w)")


def amount(value: float) -> str:
    """About three digits, with commas between thousands."""
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.01 or size == 0 else 5
    return f"{value:,.{decimals}f}"


def times(value: float) -> str:
    return f"{value:.2f}×"


def percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def signed(value: float) -> str:
    """A difference of scores."""
    return f"{value:+.3f}".replace("-", "−") if round(value, 3) else "0.000"


def score(value: float) -> str:
    return f"{value:.3f}"


def size(num_bytes: float) -> str:
    return f"{amount(num_bytes / GIB)} GiB" if num_bytes >= GIB else f"{amount(num_bytes / MIB)} MiB"


def money(value: float, currency: str) -> str:
    return f"{amount(value)} {currency}"


def p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def plain(text: object) -> str:
    """On one line, escaped so that Markdown and HTML take no letter of it for markup."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(str(text).split()).replace("&", "&amp;"))
