"""What the documents tell their readers to do: blocks of code, and commands within sentences."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *("README.md", "README.ja.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "benchmarks/README.md", "training/README.md"),
    # Options of every command, written from the commands themselves.
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "commands.md"),
    *("examples/client.py", "examples/ray_serve.yaml"),
]
PROGRAMS = ("cospec", "python", "pip", "make", "serve", "ray", "docker", "curl", "ruff", "mypy")
_FENCED = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# A program with something behind it: `cospec serve --port 1` is to be typed, while `make` is a name.
_INLINE = re.compile(rf"(?<!`)`((?:[A-Z_]+=\S+\s+)*(?:{'|'.join(PROGRAMS)})\s[^`]+)`", re.DOTALL)
_COMMENT = re.compile(r"(?:^|\s)#.*")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block. line: that of its fence. printed: the text block right below, which says what it prints."""

    document: str
    line: int
    language: str
    text: str
    printed: str | None = None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """A shell block's commands, without comments, each on one line."""
        return _commands(self.text.splitlines())


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks_of(document: str) -> list[Block]:
    text, blocks = read(document), []
    for found in _FENCED.finditer(text):
        below = re.match(r"\s*```text\n(.*?)^```$", text[found.end() :], re.DOTALL | re.MULTILINE)
        line = text.count("\n", 0, found.start()) + 1
        blocks.append(
            Block(
                document=document,
                line=line,
                language=found[1],
                text=found[2],
                printed=below[1] if below and found[1] == "python" else None,
            )
        )
    return blocks


def loose_commands_of(document: str) -> list[str]:
    """Commands outside of blocks: in sentences, and in the comments of an example."""
    text = read(document)
    if not document.endswith(".md"):
        lines = (line.removeprefix("#").strip() for line in text.splitlines())
        return _commands(line for line in lines if re.match(r"(cospec|python|serve) \S*(\s--|.*\.(py|yaml))", line))
    prose = _FENCED.sub("", text)
    commands = (" ".join(found.split()) for found in _INLINE.findall(prose))
    # Without arguments it is a name.
    return [command for command in commands if re.match(r"cospec( pilot compare| [a-z]+)$", command) is None]


def options_of(document: str) -> set[str]:
    """Every --option that it names."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*", read(document)))


def _commands(lines) -> list[str]:
    joined = re.sub(r"\\\n\s*", "", "\n".join(_COMMENT.sub("", line).rstrip() for line in lines))
    return [" ".join(line.split()) for line in joined.splitlines() if line.strip()]
