"""GSM8K as chats, for adapters of an instruction-tuned model: the question asks, the worked answer replies."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .corpora import NUM_HELD_OUT_ROWS

# Longer chats are left out of the training, and a batch is as slow as its longest.
LONGEST = 220
# Positions without a target, as torch's cross entropy knows them.
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A question and its answer. `result`: the answer's number, as text."""

    question: str
    answer: str
    result: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """A chat as token ids. The prompt is the template's rendering up to the assistant's turn; answer ends the turn."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def gsm8k_chats(path: Path) -> tuple[list[Chat], list[Chat]]:
    """(training, held out): all rows, the last 500 held out, as for the small models."""
    with path.open(encoding="utf-8") as file:
        chats = [_chat(json.loads(line)) for line in file]
    return chats[:-NUM_HELD_OUT_ROWS], chats[-NUM_HELD_OUT_ROWS:]


def _chat(row: dict[str, str]) -> Chat:
    """The row without its calculator annotations; `#### 72` becomes a sentence."""
    worked, result = re.sub("<<.*?>>", "", row["answer"]).split("\n#### ")
    return Chat(question=row["question"], answer=f"{worked}\nThe answer is {result}.", result=result)


def encode(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> Example:
    message = {"role": "user", "content": chat.question}
    prompt = tokenizer.apply_chat_template([message], add_generation_prompt=True)["input_ids"]
    answer = tokenizer.encode(chat.answer, add_special_tokens=False)
    return Example(prompt=tuple(prompt), answer=(*answer, tokenizer.eos_token_id))


def batches(examples: list[Example], size: int, num_batches: int, seed: int) -> list[list[Example]]:
    """Examples of like lengths together, the batches in an order drawn by the seed; no example comes twice."""
    rng = np.random.default_rng(seed)
    short = [example for example in examples if len(example) <= LONGEST]
    drawn = [short[i] for i in rng.permutation(len(short))[: size * num_batches]]
    drawn.sort(key=len)
    groups = [drawn[start : start + size] for start in range(0, len(drawn), size)]
    return [groups[i] for i in rng.permutation(len(groups))]


def padded(batch: list[Example], pad: int) -> tuple[Tensor, Tensor]:
    """(ids, targets), each [batch, length]. Padded at the right, so that no causal position sees the padding."""
    length = max(map(len, batch)) - 1
    ids = torch.full((len(batch), length), pad)
    targets = torch.full((len(batch), length), IGNORED)
    for row, example in enumerate(batch):
        tokens = torch.tensor([*example.prompt, *example.answer])
        ids[row, : len(example) - 1] = tokens[:-1]
        targets[row, len(example.prompt) - 1 : len(example) - 1] = torch.tensor(example.answer)
    return ids, targets
