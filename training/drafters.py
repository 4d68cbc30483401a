"""The drafters of the real model's ensembles: `cospec distil` on what each ensemble answers to sums and chats."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .chats import gsm8k_chats

# Questions of all kinds, for ensembles that are not about sums.
FORMS = ("What is {}?", "Explain {} to a child.", "Tell me something surprising about {}.")
TOPICS = Path(__file__).with_name("topics.txt").read_text(encoding="utf-8").splitlines()


@dataclass(frozen=True, kw_only=True)
class Drafter:
    """ensemble: whose texts it learns. sums: questions of GSM8K's training rows that the ensemble answers.

    is_general: whether it answers questions of all kinds as well.
    """

    ensemble: str
    sums: int
    is_general: bool = False

    @property
    def options(self) -> dict[str, object]:
        """Of `cospec distil`. None for one without a value."""
        return {"--layers": 8, "--rank": 16, "--vocabulary": 8192, "--samples": 1, "--epochs": 3}


@dataclass(frozen=True, kw_only=True)
class Head(Drafter):
    """Reads the members' hidden states. It knows nothing at first, and learns from more texts."""

    @property
    def options(self) -> dict[str, object]:
        return {"--head": None, "--samples": 3, "--greedy": None, "--max-tokens": 144}


DRAFTERS: dict[str, Drafter] = {
    "smollm2-we-drafter": Drafter(ensemble="demo:chat-we", sums=220),
    "smollm2-we-head": Head(ensemble="demo:chat-we", sums=500, is_general=True),
    "smollm2-guided-head": Head(ensemble="demo:chat-guided", sums=400, is_general=True),
}


def make_drafter(name: str, rows: Path, root: Path, work: Path) -> None:
    """Run `cospec distil`, which shows its progress and, after an interruption, goes on where it was.

    root: the repository's, from which the card names paths. Raises CalledProcessError where it fails.
    """
    drafter, prompts, out = DRAFTERS[name], work / f"{name}.jsonl", work / name
    train, _ = gsm8k_chats(rows)
    general = [form.format(topic) for topic in TOPICS for form in FORMS] if drafter.is_general else []
    questions = [*(chat.question for chat in train[: drafter.sums]), *general]
    lines = [json.dumps({"messages": [{"role": "user", "content": question}]}) for question in questions]
    prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = {
        "--ensemble": drafter.ensemble,
        "--prompts": prompts.relative_to(root),
        **drafter.options,
        # The texts are the same to all that matters, and are written sooner.
        "--dtype": "bfloat16",
        "--out": out.relative_to(root),
    }
    listed = [str(part) for pair in options.items() for part in pair if part is not None]
    subprocess.run([sys.executable, "-m", "cospec", "distil", *listed], check=True, cwd=root)
    _install(out, root / "src/cospec/demo/adapters" / name, root)


def _install(out: Path, folder: Path, root: Path) -> None:
    """Put the drafter in the place of the one that the ensemble has proposed by so far. What the run could go on from
    is no part of it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(out, folder, ignore=shutil.ignore_patterns("work"))
    card = folder / "README.md"
    # The path of the prompts begins as that of the drafter does, but no quotation ends there.
    old, new = (f"{path.relative_to(root)}`" for path in (out, folder))
    card.write_text(card.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
