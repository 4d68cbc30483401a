"""Would drafts kept behind a rejection pay? `python benchmarks/kept.py` predicts their speed against dropping them.

Behind a rejected draft all others are dropped, and the proposer drafts anew. They might be kept, at no cost:

    in place   the drafts themselves, each at its position
    realigned  those behind the first of them that is the replacement, where there is one; else in place
    refreshed  what the members' rows of the same pass say there, which were computed behind the rejected token
               (speculative Jacobi decoding with coupled draws: Teng et al. 2024; So et al. 2025, arXiv 2510.24211)

and used:

    alone      they are the next block, without a pass of the drafter
    extended   the drafter is fed them in one pass, and drafts on behind them
    checked    the drafter is fed them, and keeps its own drafts: as many as agree cost one pass together
    fallback   they are the next block where a lookup finds nothing
    both       they are a branch of a tree beside the new drafts, and the better one counts: but for the tokens fed,
               more than any choice between the two gives (cospec has no trees)

`checked` proposes the very tokens that dropping does, in fewer passes of the drafter. Blocks of each length are run
over the sequences that plain decoding gives, with real rows behind wrong drafts too. Drafts are verified by coupling:
the noise of a position meets every draft there (at temperature 0 there is none). Each way is compared, at its best
length of block, with dropping at its own: by measured costs of forward passes, and as if a pass cost the same for any
number of tokens. Combining and verifying are taken to cost nothing. The proposer `none` repeats the last token: with
`refreshed, extended` that is the paper's method, which has no drafter.
"""

import argparse
import itertools
import json
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from regret import prompts_for
from torch import Tensor
from trees import Curve, at, measured

from cospec import Ensemble, SamplingParams, __version__
from cospec.errors import CospecError
from cospec.prompts import Prompt
from cospec.runner import Feed, Runner
from cospec.runner.lookup import LookupRunner
from cospec.study.exactness import first_difference

GAMMAS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
# What is kept is compared with new drafts, rejection by rejection, in blocks of this length.
COMPARED = 8
KEEPING = ("in place", "realigned", "refreshed")
USES = {"model": ("alone", "extended", "checked", "both"), "free": ("alone", "extended", "fallback", "both")}

Text = tuple[int, ...]


class Proposer(Protocol):
    """kind: `model`, whose passes cost what is measured, or `free`."""

    kind: str

    def draft(self, text: Text, num_settled: int, most: int) -> list[int]:
        """At most so many tokens to follow `text`, whose first `num_settled` tokens are settled."""


class Slots:
    """Runners and a prompt for each, fed whatever text is asked for; only what they have not seen is fed."""

    def __init__(self, runners: Sequence[Runner], prompts: Sequence[Sequence[int]]) -> None:
        self._lanes = [(runner, runner.open(), [*prompt]) for runner, prompt in zip(runners, prompts, strict=True)]
        self._text: Text = ()

    def rows(self, text: Text, first: int) -> Tensor:
        """Logits for positions first .. len(text), given the text before each, [runners, positions, vocab]."""
        shared = min(first - 1, first_difference(text, self._text))
        self._text = text
        answers = []
        for runner, slot, prompt in self._lanes:
            runner.trim(slot, min(slot.length, len(prompt) + shared))
            feed = Feed(slot, [*prompt, *text][slot.length :], rows=len(text) + 1 - first)
            answers += runner.feed([feed])
        width = min(rows.shape[-1] for rows in answers)
        return torch.stack([rows[:, :width] for rows in answers])

    def close(self) -> None:
        for runner, slot, _ in self._lanes:
            runner.close(slot)


class NextTokens:
    """The token that the noise of a position gives behind a text, by rows combined: argmax log p / T + G.

    log_p: [runners, positions, vocab] -> [positions, vocab]. noise: of a position, [vocab]; None at temperature 0.
    """

    kind = "model"

    def __init__(
        self,
        slots: Slots,
        log_p: Callable[[Tensor], Tensor],
        temperature: float,
        noise: Callable[[int, int], Tensor] | None,
    ) -> None:
        self._slots, self._log_p, self._temperature, self._noise = slots, log_p, temperature, noise
        self._known: dict[Text, int] = {}

    def along(self, text: Text, first: int) -> list[int]:
        """The tokens for positions first .. len(text), each given the text before it."""
        prefixes = [text[:position] for position in range(first, len(text) + 1)]
        unknown = next((prefix for prefix in prefixes if prefix not in self._known), None)
        if unknown is not None:
            self._compute(text, len(unknown))
        return [self._known[prefix] for prefix in prefixes]

    def draft(self, text: Text, num_settled: int, most: int) -> list[int]:
        drafted: list[int] = []
        for _ in range(most):
            drafted += self.along((*text, *drafted), len(text) + len(drafted))
        return drafted

    def probability(self, text: Text, token: int) -> float:
        """Of the token behind the text."""
        row = self._log_p(self._slots.rows(text, len(text)))[0] / (self._temperature or 1.0)
        return float(torch.softmax(row, -1)[token])

    def _compute(self, text: Text, first: int) -> None:
        log_p = self._log_p(self._slots.rows(text, first))
        for position, row in enumerate(log_p, first):
            noisy = row if self._noise is None else row / self._temperature + self._noise(position, len(row))
            self._known[text[:position]] = int(noisy.argmax())


class Lookup:
    """What cospec's lookup drafts."""

    kind = "free"

    def __init__(self, runner: LookupRunner, prompt: Sequence[int]) -> None:
        self._runner, self._prompt = runner, [*prompt]
        self._known: dict[tuple[Text, int], list[int]] = {}

    def draft(self, text: Text, num_settled: int, most: int) -> list[int]:
        if (text, num_settled) not in self._known:
            slot = self._runner.open()
            tokens = [*self._prompt, *text]
            self._runner.feed([Feed(slot, tokens, 1, len(self._prompt) + num_settled)])
            self._known[text, num_settled] = self._runner.propose_run(slot, max(GAMMAS))
        return self._known[text, num_settled][:most]


class Repeat:
    """The last token again and again: the start of a method that has no drafter."""

    kind = "free"

    def draft(self, text: Text, num_settled: int, most: int) -> list[int]:
        return [*text[-1:]] * most


@dataclass(frozen=True)
class Way:
    """How what is kept is chosen and used. keeping: None drops all."""

    keeping: str | None = None
    use: str = ""

    def __str__(self) -> str:
        return "dropped" if self.keeping is None else f"{self.keeping}, {self.use}"


@dataclass(frozen=True)
class Round:
    """A verification. num_drafts: that the members were fed, in all branches. drafter_fed: tokens of each pass of the
    drafter."""

    num_drafts: int
    num_accepted: int
    drafter_fed: tuple[int, ...]


@dataclass(frozen=True)
class Rejected:
    """A block from position `start` on, whose draft behind the accepted ones was rejected.

    tokens: the members' own, at its positions and the one behind them, each given the drafts before it.
    """

    start: int
    block: Sequence[int]
    tokens: Sequence[int]
    num_accepted: int

    def kept(self, keeping: str) -> list[int]:
        """What is kept for the positions behind the replacement."""
        behind, replacement = [*self.block[self.num_accepted + 1 :]], self.tokens[self.num_accepted]
        if keeping == "refreshed":
            return [*self.tokens[self.num_accepted + 1 :]]
        if keeping == "realigned" and replacement in behind:
            return behind[behind.index(replacement) + 1 :]
        return behind


@dataclass(frozen=True)
class Decoding:
    """A sequence that plain decoding gave, longer than what is simulated, and what it was decoded with."""

    text: Text
    target: NextTokens
    proposer: Proposer


def simulated(way: Way, gamma: int, decoding: Decoding, num_tokens: int) -> tuple[list[Round], list[Rejected]]:
    """Decode `num_tokens` of the sequence, in blocks of at most `gamma`."""
    rounds, rejections = [], []
    kept: list[int] = []
    # Of the text, how many tokens are settled, and the drafter was fed; -1: of its prompt all but the last.
    position, fed = 0, -1
    while position < num_tokens:
        settled, kept = decoding.text[:position], kept[:gamma]
        block, passes = drafted(way.use, gamma, settled, kept, decoding.proposer, position - fed)
        branches = [block, kept] if kept and way.use == "both" else [block]
        verified = [(branch, decoding.target.along((*settled, *branch), position)) for branch in branches]
        best, tokens = max(verified, key=lambda pair: first_difference(*pair))
        num_accepted = first_difference(best, tokens)
        rounds.append(Round(sum(map(len, branches)), num_accepted, tuple(passes)))
        kept = []
        if num_accepted < len(best):
            rejections.append(Rejected(position, best, tokens, num_accepted))
            kept = rejections[-1].kept(way.keeping) if way.keeping else []
        if passes:
            # The last draft is not fed.
            fed = position + min(first_difference(block, decoding.text[position:]), len(block) - 1)
        position += num_accepted + 1
    return rounds, rejections


def drafted(
    use: str, gamma: int, settled: Text, kept: list[int], proposer: Proposer, behind: int
) -> tuple[list[int], list[int]]:
    """The next block, and the tokens that each pass of the drafter is fed for it. behind: how many settled tokens the
    drafter was not fed yet."""
    new = gamma
    block: list[int] = []
    if kept and use == "alone":
        return kept, []
    if kept and use == "extended":
        block, new = kept, gamma - len(kept)
    block = block + proposer.draft((*settled, *block), len(settled), new)
    if use == "fallback" and not block:
        return kept, []
    if proposer.kind == "free" or not new:
        return block, []
    if kept and use == "checked":
        num_checked = min(len(kept), gamma - 1)
        return block, [behind + num_checked] + [1] * (gamma - 1 - first_difference(kept[:num_checked], block))
    return block, [behind + len(block) - new] + [1] * (new - 1)


def decoded(ensemble: Ensemble, prompt: Prompt, temperature: float, num_tokens: int, seed: int) -> Decoding:
    """`num_tokens`, and as many more as a block may be ahead. The ensemble has one drafter, or none."""
    num_members = len(ensemble.member_names)
    request = ensemble.request(prompt, SamplingParams(max_tokens=num_tokens, temperature=temperature))
    runners, prompts = ensemble.runners, request.lane_prompts

    @cache
    def noise(position: int, vocab_size: int) -> Tensor:
        generator = torch.Generator().manual_seed(10_000 * seed + position)
        return -torch.empty(ensemble.vocab_size).exponential_(generator=generator).log_()[:vocab_size]

    def next_tokens(lanes: slice, log_p: Callable[[Tensor], Tensor]) -> NextTokens:
        return NextTokens(Slots(runners[lanes], prompts[lanes]), log_p, temperature, noise if temperature else None)

    target = next_tokens(slice(num_members), lambda rows: ensemble.combination.log_probs(rows.float()))
    text: Text = ()
    while len(text) < num_tokens + 2 * max(GAMMAS) + 2:
        text = (*text, *target.along(text, len(text)))
    proposer: Proposer = Repeat()
    if len(runners) > num_members:
        own = runners[num_members]
        if isinstance(own, LookupRunner):
            proposer = Lookup(own, prompts[num_members])
        else:
            proposer = next_tokens(
                slice(num_members, num_members + 1), lambda rows: rows[0, :, : ensemble.vocab_size].float()
            )
    return Decoding(text, target, proposer)


def milliseconds(rounds: Sequence[Round], members: Curve, drafter: Curve) -> float:
    return sum(at(members, 1 + each.num_drafts) + sum(at(drafter, fed) for fed in each.drafter_fed) for each in rounds)


def all_simulated(decodings: Sequence[Decoding], num_tokens: int) -> dict[Way, dict[int, list[Round]]]:
    """Way -> drafts a block -> the rounds of all sequences."""
    kind = decodings[0].proposer.kind
    ways = [Way(), *(Way(*each) for each in itertools.product(KEEPING, USES[kind]))]
    # A pass over a long block has what shorter ones need.
    return {
        way: {
            gamma: [each for decoding in decodings for each in simulated(way, gamma, decoding, num_tokens)[0]]
            for gamma in reversed(GAMMAS)
        }
        for way in ways
    }


def speeds(rounds: dict[Way, dict[int, list[Round]]], members: Curve, drafter: Curve) -> list[dict[str, Any]]:
    """Of each way its best length of block, and its speed over that of dropping at its own best."""
    rows: list[dict[str, Any]] = []
    for way, by_gamma in rounds.items():
        tokens = {gamma: sum(1 + each.num_accepted for each in own) for gamma, own in by_gamma.items()}
        speed = {gamma: 1000 * tokens[gamma] / milliseconds(own, members, drafter) for gamma, own in by_gamma.items()}
        best = max(GAMMAS, key=speed.__getitem__)
        own = by_gamma[best]
        rows.append(
            {
                "way": str(way),
                "gamma": best,
                "tokens_per_round": tokens[best] / len(own),
                "drafter_passes_per_round": sum(len(each.drafter_fed) for each in own) / len(own),
                "tokens_per_second": speed[best],
                "gain": speed[best] / (rows[0]["tokens_per_second"] if rows else speed[best]) - 1,
            }
        )
    return rows


def compared(decodings: Sequence[Decoding], num_tokens: int) -> dict[str, Any]:
    """What is kept at the rejections of dropping, with blocks of COMPARED, against new drafts at the same positions."""
    counts: dict[str, list[float]] = {}

    def count(name: str, value: float) -> None:
        counts.setdefault(name, []).append(value)

    for each in decodings:
        for rejected in simulated(Way(), COMPARED, each, num_tokens)[1]:
            start = rejected.start + rejected.num_accepted + 1
            follows = each.text[start:]
            new = each.proposer.draft(each.text[:start], start, COMPARED)
            count("new, matching", first_difference(new, follows))
            count("new, first matches", bool(first_difference(new, follows)))
            for keeping in KEEPING:
                kept = rejected.kept(keeping)
                count(f"{keeping}, drafts", len(kept))
                count(f"{keeping}, matching", first_difference(kept, follows))
                count(f"{keeping}, agreeing with new", first_difference(kept, new))
                if kept:
                    count(f"{keeping}, first matches", bool(first_difference(kept, follows)))
                    count(f"{keeping}, probability of first", each.target.probability(each.text[:start], kept[0]))
    return {"rejections": len(counts.get("new, matching", ())), **{k: statistics.mean(v) for k, v in counts.items()}}


def flat(curve: Curve) -> Curve:
    return [(1, curve[0][1]), (max(GAMMAS) + 1, curve[0][1])]


def show(temperature: float, result: dict[str, Any]) -> None:
    own = result["compared"]
    print(f"\ntemperature {temperature:g}: {own['rejections']} rejections in blocks of {COMPARED}; a rejection's means")
    for name in KEEPING if own["rejections"] else ():
        print(
            "  {:10} {:.2f} kept, {:.2f} match ({:.2f} of new drafts do), {:.2f} agree with new drafts; of the first "
            "{:.2f} match, of probability {:.2f}".format(
                name,
                own[f"{name}, drafts"],
                own[f"{name}, matching"],
                own["new, matching"],
                own[f"{name}, agreeing with new"],
                own.get(f"{name}, first matches", 0.0),
                own.get(f"{name}, probability of first", 0.0),
            )
        )
    for costs in ("measured", "flat"):
        print(f"{costs} costs: way, drafts a block, tokens a round, passes of the drafter a round, tokens/s, gain")
        for row in result[costs]:
            print(
                "  {way:22} {gamma:3} {tokens_per_round:6.2f} {drafter_passes_per_round:6.2f} "
                "{tokens_per_second:8.1f} {gain:+7.1%}".format(**row)
            )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ensemble", default="demo:we", help="a bundled ensemble or a YAML file (demo:we)")
    parser.add_argument("--member", help="one model, in place of an ensemble")
    parser.add_argument("--drafter", default="demo:drafter", help="a model, lookup or none (demo:drafter)")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help='JSON lines of {"prompt": ...}; else bundled ones')
    parser.add_argument("--texts", type=int, default=10, help="how many of the prompts (10)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens a sequence (64)")
    parser.add_argument("--temperature", type=float, nargs="+", default=(0.0, 1.0))
    parser.add_argument("--cost", type=json.loads, help="of all members, [[tokens, milliseconds], ...]; else measured")
    parser.add_argument("--drafter-cost", type=json.loads, help="of the drafter, likewise")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    return parser.parse_args(arguments)


def loaded(options: argparse.Namespace) -> Ensemble:
    drafting = {} if options.drafter == "none" else {"proposer": options.drafter}
    given: dict[str, Any] = {"dtype": "float32", "schedule": "fixed" if drafting else "plain", **drafting}
    spec = options.ensemble
    ensemble = (
        Ensemble([options.member], **given) if options.member else Ensemble.load(spec, keep_measurements=False, **given)
    )
    if drafting and len(ensemble.runners) == len(ensemble.member_names):
        sys.exit(f"{options.drafter} is a member; give a drafter that is none")
    return ensemble


def prompts_of(options: argparse.Namespace, ensemble: Ensemble) -> list[Prompt]:
    if options.prompts is None:
        return prompts_for(ensemble)[: options.texts]
    lines = options.prompts.read_text().splitlines()[: options.texts]
    return [json.loads(line)["prompt"] for line in lines]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    ensemble = loaded(options)
    num_members = len(ensemble.member_names)
    models = [each for each in ensemble.runners[num_members:] if not isinstance(each, LookupRunner)]
    members = options.cost or measured(*ensemble.runners[:num_members])
    drafter = options.drafter_cost or (measured(*models) if models else [(1, 0.0)])
    reports = {}
    for temperature in options.temperature:
        decodings = [
            decoded(ensemble, prompt, temperature, options.tokens, seed)
            for seed, prompt in enumerate(prompts_of(options, ensemble))
        ]
        rounds = all_simulated(decodings, options.tokens)
        reports[temperature] = {
            "compared": compared(decodings, options.tokens),
            "measured": speeds(rounds, members, drafter),
            "flat": speeds(rounds, flat(members), flat(drafter)),
        }
        show(temperature, reports[temperature])
    if options.json:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        about = {"version": __version__, "settings": settings, "machine": platform.machine()}
        costs = {"members": members, "drafter": drafter}
        options.json.write_text(json.dumps({**about, "costs": costs, "temperatures": reports}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except CospecError as error:
        sys.exit(str(error))
