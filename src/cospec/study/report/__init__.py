"""The page that a pilot ends in: `report.html` to read and decide on, `report.md` to paste."""

from pathlib import Path

from ...storage import keep
from ..results import Results
from .html import to_html
from .markdown import to_markdown
from .sections import sections
from .texts import LANGUAGES, load_texts
from .view import View

__all__ = ["LANGUAGES", "write"]


def write(study: Results, folder: Path, language: str) -> None:
    """Both files into the folder, whole or not at all; what was not measured is said to be so.

    Raises UnknownName for a language that there is none of, CospecError where the files cannot be written.
    """
    view = View(study=study, say=load_texts(language))
    found = sections(view)
    keep(folder / "report.html", to_html(view, found))
    keep(folder / "report.md", to_markdown(view, found))
