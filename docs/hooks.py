"""What mkdocs needs to know of this repository: documents outside of docs/ are pages too, and links lead to pages."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Document -> its page.
PAGES = {
    "README.md": "index.md",
    "README.ja.md": "index.ja.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "training/README.md": "training.md",
}
# Folders that a page speaks for.
FOLDERS = {"benchmarks": "benchmarks/README.md", "training": "training/README.md", "docs": "README.md"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}
AS_THEY_ARE = (".png", ".json")
_FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)(?=[)#])")
_LIST_IN_PARAGRAPH = re.compile(r"^((?![-*#|>\s]|\d+\.).+)\n(?=- |1\. )", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the documents outside of docs/, and a page for every source file that a document links to."""
    for document, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / document).read_text(encoding="utf-8")))
    for path in sorted(_linked_sources(files)):
        if path.suffix in AS_THEY_ARE:
            files.append(File.generated(config, _shown(path), abs_src_path=str(path)))
        else:
            files.append(File.generated(config, _shown(path), content=_source_page(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links as the site has them. Python-Markdown, unlike GitHub, wants an empty line in front of a list."""
    document = _document(page.file.src_uri)
    parts = _FENCED.split(markdown)
    for i in range(0, len(parts), 2):
        parts[i] = _LINK.sub(lambda found: _target(found[1], document, page.file.src_uri), parts[i])
        parts[i] = _LIST_IN_PARAGRAPH.sub(r"\1\n\n", parts[i])
    return "".join(parts)


def _linked_sources(files: Files) -> set[Path]:
    """What pages link to that is no page itself: files and folders of the repository, with the folders' files."""
    found = set()
    for file in files.documentation_pages():
        document = _document(file.src_uri)
        for target in _LINK.findall(_FENCED.sub("", file.content_string)):
            path = ROOT / _resolved(target, document)
            if path.exists() and not path.is_relative_to(ROOT / "docs") and _name(path) not in {*PAGES, *FOLDERS}:
                found |= {path, *_files_in(path)}
    return found


def _files_in(folder: Path) -> list[Path]:
    found = (path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.suffix in LANGUAGES)
    return sorted(path for path in found if path.name != "__init__.py")


def _target(link: str, document: str, here: str) -> str:
    """A link of a document as one between pages. What leads nowhere stays, and mkdocs refuses it."""
    path = ROOT / _resolved(link, document)
    name = FOLDERS.get(_name(path), _name(path))
    if name in PAGES:
        page = PAGES[name]
    elif name.startswith("docs/") or not path.exists():
        page = name.removeprefix("docs/")
    else:
        page = _shown(path)
    return posixpath.relpath(page, posixpath.dirname(here) or ".")


def _document(page: str) -> str:
    """The document that a page is made of."""
    documents = {page: document for document, page in PAGES.items()}
    return documents.get(page, f"docs/{page}")


def _resolved(link: str, document: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(document), link))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _shown(path: Path) -> str:
    """The page of a source file or folder."""
    name = f"source/{_name(path)}"
    if path.suffix in AS_THEY_ARE:
        return name
    return f"{name}/index.md" if path.is_dir() else f"{name}.md"


def _source_page(path: Path) -> str:
    """A file's text, or a folder's files."""
    head = f"---\nsearch: {{exclude: true}}\n---\n# {_name(path)}\n\n"
    if path.is_dir():
        links = (
            (file.relative_to(path), posixpath.relpath(_shown(file), f"source/{_name(path)}"))
            for file in _files_in(path)
        )
        return head + "\n".join(f"- [{name}]({link})" for name, link in links)
    text = path.read_text(encoding="utf-8")
    return f"{head}````{LANGUAGES.get(path.suffix, 'text')}\n{text}````\n"
