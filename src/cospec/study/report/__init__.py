"""The page that a pilot ends in: `report.html` to read and decide on, `report.md` to paste.

`sections.j2` is what stands in both, `html.j2` and `markdown.j2` how it is marked up.
"""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import MissingExtra
from ...storage import keep, to_json
from ..results import Results
from . import filters
from .charts import FEW, Charts
from .headline import Headline
from .texts import LANGUAGES, load_texts
from .view import View

try:
    from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined
    from jinja2.bccache import Bucket
except ImportError:
    raise MissingExtra("a pilot's report needs jinja2: pip install 'cospec[pilot]'") from None

__all__ = ["LANGUAGES", "markdown", "page", "write"]

_HERE = Path(__file__).parent
_FILTERS = ("amount", "times", "percent", "signed", "score", "size", "p_value", "plain")
# The sentences of the page's script, for when a price changes.
_SCRIPT_TEXTS = (
    *("cost.saving", "cost.loss", "cost.no saving yet", "cost.less", "cost.more"),
    *("tile.cost says", "page.edited"),
)


class _Compiled(BytecodeCache):
    """Templates that this process has compiled. Their code serves every study, whose values are globals and filters. No
    filter of a study's own may stand behind a constant: that would be computed as the template is compiled."""

    def __init__(self) -> None:
        self._code: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._code:
            bucket.bytecode_from_string(self._code[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._code[bucket.key] = bucket.bytecode_to_string()


@cache
def _compiled(is_html: bool) -> _Compiled:
    """One for each kind of report: what is escaped stands in the code."""
    return _Compiled()


def write(study: Results, folder: Path, language: str) -> None:
    """Both files into the folder, each whole or not at all. Figures that were not measured are named as such.

    Raises UnknownName for an unknown language, CospecError where the files cannot be written.
    """
    keep(folder / "report.html", page(study, language))
    keep(folder / "report.md", markdown(study, language))


def page(study: Results, language: str) -> str:
    """`report.html`. Raises UnknownName for an unknown language."""
    view = View(study=study, say=load_texts(language))
    return _environment(view, is_html=True).get_template("report.html.j2").render(_page(view))


def markdown(study: Results, language: str) -> str:
    """`report.md`. Raises UnknownName for an unknown language."""
    view = View(study=study, say=load_texts(language))
    text = _environment(view, is_html=False).get_template("report.md.j2").render()
    return re.sub(r"\n\s*\n", "\n\n", text).strip() + "\n"


def _environment(view: View, *, is_html: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=is_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=_compiled(is_html),
    )
    written = {name: getattr(filters, name) for name in _FILTERS}
    environment.filters |= {**written, "money": view.money, "method": view.method}
    environment.globals |= {
        **written,
        "say": view.say,
        "study": view.study,
        "view": view,
        "charts": Charts(view),
        "few": FEW,
        "headline": Headline(view),
    }
    return environment


def _page(view: View) -> dict[str, Any]:
    """What only the page has: its style, its script, the policy that lets no other one run, and the data."""
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    unmetered = view.missing("machine does not tell")
    texts = {
        **{key: view.say.table[key] for key in _SCRIPT_TEXTS},
        "planned": view.at_once(view.planned),
        "unmetered": unmetered,
        "unmetered saving": view.say("cost.no saving", {"reason": unmetered}),
    }
    return {
        "style": (_HERE / "page.css").read_text(encoding="utf-8"),
        "script": script,
        "digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "results": _json(view.study.to_dict()),
        "texts": _json(texts),
    }


def _json(value: object) -> str:
    """JSON in which no tag can be closed."""
    return to_json(value).replace("<", "\\u003c")
