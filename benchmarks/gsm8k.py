"""Is the tuned model better, and what do a mixture and a realigned pair make of both?

`python -m benchmarks.gsm8k --gsm8k FILE` asks held-out questions of GSM8K, as chats, of base and tuned model, their
mixtures and their realigned pairs over the weight of the tuned one. Perplexity: of a token of the worked answers, each
member's rows computed once and combined under each target. Score: the share of questions whose greedy answer ends with
the right number. A weight beyond 1 goes further than the tuning did.
"""

import argparse
import json
import math
import platform
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cospec import Arithmetic, Chat, Ensemble, Mixture, SamplingParams, __version__
from cospec.core.combine import Combination
from cospec.runner import Feed, Runner
from training.chats import Chat as Question
from training.chats import gsm8k_chats

HEADINGS = "target      weight  perplexity  right  questions   tokens  seconds"
CELLS = "{target:<10} {weight:>7} {perplexity:>11} {right:>6} {questions:>10} {mean_tokens:>8} {seconds:>8}"
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One target's results. mean_tokens: of an answer, cut at the most tokens allowed."""

    target: str
    weight: float
    perplexity: float
    right: int
    questions: int
    mean_tokens: float
    seconds: float


def targets(weights: Sequence[float]) -> Iterator[tuple[str, float, Combination]]:
    """Base and tuned model alone are the mixtures and pairs of weights 0 and 1."""
    for weight in weights:
        if weight in (0, 1):
            yield ("base", "tuned")[int(weight)], weight, Arithmetic([1 - weight, weight])
            continue
        if 0 < weight < 1:
            yield "mixture", weight, Mixture([1 - weight, weight])
        yield "realigned", weight, Arithmetic([1 - weight, weight])


def messages(question: Question) -> Chat:
    return Chat(messages=({"role": "user", "content": question.question},))


def answer_rows(runner: Runner, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """The runner's logits for each token of the answer, [len(answer), vocab]."""
    slot = runner.open()
    (rows,) = runner.feed([Feed(slot, [*prompt, *answer[:-1]], rows=len(answer))])
    runner.close(slot)
    return rows.clone()


def perplexities(pair: Ensemble, questions: Sequence[Question], combinations: Sequence[Combination]) -> list[float]:
    """exp of the mean negative log-likelihood of an answer's token, its end included, under each target."""
    totals, count = [0.0] * len(combinations), 0
    for question in questions:
        answer = [*pair.tokenizer.encode_part(question.answer), *pair.end_ids[:1]]
        # Drafters come behind the members.
        lanes = zip(pair.runners[: len(pair.member_names)], pair.rendered(messages(question)), strict=False)
        logits = torch.stack([answer_rows(runner, prompt, answer) for runner, prompt in lanes])
        tokens = torch.tensor(answer)[:, None]
        for place, combination in enumerate(combinations):
            totals[place] -= combination.log_probs(logits).gather(1, tokens).sum().item()
        count += len(answer)
    return [math.exp(total / count) for total in totals]


def score(pair: Ensemble, questions: Sequence[Question], max_tokens: int) -> dict[str, Any]:
    """How many greedy answers end with the right number."""
    started = time.monotonic()
    params = SamplingParams(temperature=0, max_tokens=max_tokens)
    results = pair.generate([messages(question) for question in questions], params)
    right = sum(is_right(result.text, question) for result, question in zip(results, questions, strict=True))
    tokens = sum(result.completion_tokens for result in results) / len(results)
    seconds = round(time.monotonic() - started, 1)
    return {"right": right, "questions": len(questions), "mean_tokens": round(tokens, 1), "seconds": seconds}


def is_right(text: str, question: Question) -> bool:
    numbers = NUMBER.findall(text)
    return bool(numbers) and as_number(numbers[-1]) == as_number(question.result)


def as_number(text: str) -> float:
    return float(text.replace(",", ""))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gsm8k", description=__doc__)
    parser.add_argument(
        "--gsm8k", type=Path, required=True, help="GSM8K's training rows, of which the last 500 are asked"
    )
    parser.add_argument("--ensemble", default="demo:chat-we", help="base and tuned model (demo:chat-we)")
    parser.add_argument("--dtype", help="the ensemble's by default")
    parser.add_argument("--weights", default="0,0.25,0.5,0.75,1,1.5", help="of the tuned model (0,0.25,0.5,0.75,1,1.5)")
    parser.add_argument("--likelihoods", type=int, default=500, help="questions for the perplexity (500)")
    parser.add_argument("--questions", type=int, default=100, help="questions for the score (100)")
    parser.add_argument("--tokens", type=int, default=256, help="the most tokens of an answer (256)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    _, held_out = gsm8k_chats(arguments.gsm8k)
    own = {"dtype": arguments.dtype} if arguments.dtype else {}
    pair = Ensemble.load(arguments.ensemble, schedule="plain", **own)
    asked = list(targets([float(weight) for weight in arguments.weights.split(",")]))
    values = perplexities(pair, held_out[: arguments.likelihoods], [combination for _, _, combination in asked])
    rows = []
    print(HEADINGS)
    for (name, weight, combination), perplexity in zip(asked, values, strict=True):
        one = pair.alone(name) if name in pair.member_names else pair.with_combination(combination)
        found = score(one, held_out[: arguments.questions], arguments.tokens)
        rows.append(Row(target=name, weight=weight, perplexity=round(perplexity, 3), **found))
        print(CELLS.format(**asdict(rows[-1])), flush=True)
    about = {"version": __version__, "settings": {**vars(arguments), "gsm8k": arguments.gsm8k.name}}
    print(json.dumps({**about, "machine": platform.machine(), "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
