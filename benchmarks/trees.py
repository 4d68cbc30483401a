"""Would token trees pay? `python benchmarks/trees.py` predicts their speed against chains, for one drafter.

Along sequences of the ensemble, whose token at a position is x, it computes the probability that the drafter's k-th
child is accepted, given that x is settled. The expected number of a tree's accepted tokens is the sum over its nodes of
the product of these probabilities along a node's path, averaged over the starts of a round: for a given sequence this
is exact. Children are the drafter's most probable tokens at temperature 0; else they are drawn without replacement and
accepted recursively (RSD, Jeon et al. 2024). Trees are the best static ones (Sequoia, Chen et al. 2024) for the mean of
these probabilities. A round feeds the members the last settled token and all nodes, and the drafter one forward pass a
level; combining and verifying are taken to cost nothing.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from functools import cache, partial
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cospec import Ensemble, SamplingParams, __version__, demo
from cospec.runner import Feed, Runner

BUDGETS = (4, 8, 16, 32)
FED = (1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33)
NUM_CHILDREN = NUM_DRAWS = 16
NUM_TIMINGS, CONTEXT = 41, 100

Tree = tuple["Tree", ...]  # a node's children, by rank
Curve = list[tuple[int, float]]  # tokens fed, milliseconds of the forward pass


def milliseconds(tree: Tree, members: Curve, drafter: Curve) -> float:
    """Milliseconds to draft and score the tree. The drafter is fed the nodes that have children, level by level."""
    total, level = at(members, 1 + size(tree)), [tree]
    while any(level):
        total += at(drafter, sum(map(bool, level)))
        level = [child for node in level for child in node]
    return total


def at(curve: Curve, num_tokens: int) -> float:
    return float(np.interp(num_tokens, *np.array(curve).T))


def size(tree: Tree) -> int:
    return sum(1 + size(child) for child in tree)


def height(tree: Tree) -> int:
    return max((1 + height(child) for child in tree), default=0)


def best_trees(by_rank: Sequence[float]) -> dict[tuple[int, int], Tree]:
    """(nodes, height) -> the tree of at most so many nodes and levels that has the most nodes accepted."""

    @cache
    def best(nodes: int, levels: int, rank: int) -> tuple[float, Tree]:
        """Accepted nodes and tree of siblings from `rank` on, with their descendants."""
        highest: tuple[float, Tree] = (0.0, ())
        for own in range(1, nodes + 1) if levels and rank < len(by_rank) else ():
            below, children = best(own - 1, levels - 1, 0)
            beside, siblings = best(nodes - own, levels, rank + 1)
            tree = (by_rank[rank] * (1 + below) + beside, (children, *siblings))
            highest = max(highest, tree, key=itemgetter(0))
        return highest

    return {(n, levels): best(n, levels, 0)[1] for n in range(1, max(BUDGETS) + 1) for levels in range(1, n + 1)}


def accepted(tree: Tree, by_position: Tensor, depth: int = 0) -> Tensor:
    """[positions, ranks] -> [starts]: the expected number of the tree's nodes that are accepted from each start."""
    num_starts = by_position.shape[0] - max(BUDGETS) + 1
    total = torch.zeros(num_starts, dtype=by_position.dtype)
    for rank, child in enumerate(tree):
        total += by_position[depth : depth + num_starts, rank] * (1 + accepted(child, by_position, depth + 1))
    return total


def recursive_ranks(tokens: Tensor, r: Tensor, q: Tensor) -> Tensor:
    """[positions, ranks]: the probability that the k-th child is accepted, given that `tokens` are settled.

    tokens: [positions]. r, q: [positions, vocab], target and drafter. Rejected children are drawn from q given their
    rejection, max(q - p, 0), with p the residual so far.
    """
    settled = tokens[:, None]
    total = torch.zeros(len(tokens), NUM_CHILDREN, dtype=r.dtype)
    for _ in range(NUM_DRAWS):
        p, left = r, q
        reach = torch.ones(len(tokens), 1, dtype=r.dtype)
        for rank in range(NUM_CHILDREN):
            overlap = torch.minimum(p, left)
            total[:, rank] += (reach * overlap.gather(1, settled) / r.gather(1, settled))[:, 0]
            reach = reach * (1 - overlap.sum(-1, keepdim=True)).clamp(min=0)
            # Where p and q are equal nothing is rejected, and `reach` is 0: any token may be drawn there.
            rejected = torch.multinomial((left - overlap).clamp(min=1e-300), 1)
            p = normalize(p - overlap, p=1, dim=-1, eps=1e-300)
            left = normalize(left.scatter(1, rejected, 0.0), p=1, dim=-1)
    return total / NUM_DRAWS


def rows(runner: Runner, prompt: Sequence[int], text: Sequence[int]) -> Tensor:
    """The runner's logits for each token of `text`, [len(text), vocab]."""
    slot = runner.open()
    (answer,) = runner.feed([Feed(slot, [*prompt, *text[:-1]], rows=len(text))])
    runner.close(slot)
    return answer.double()


def ranks_along(base: Ensemble, drafter: Runner, prompt: str, params: SamplingParams) -> Tensor:
    """[positions, ranks] for the sequence that `plain` decodes from the prompt."""
    text = base.generate(prompt, params)[0].token_ids
    request, tokens = base.request(prompt, params), torch.tensor(text)
    q = rows(drafter, request.prompt, text)[:, : base.vocab_size]
    if params.temperature == 0:
        return (q.topk(NUM_CHILDREN, dim=-1).indices == tokens[:, None]).double()
    members = zip(base.runners, request.lane_prompts, strict=True)
    logits = torch.stack([rows(*member, text)[:, : base.vocab_size] for member in members])
    r = torch.softmax(base.combination.log_probs(logits) / params.temperature, -1)
    return recursive_ranks(tokens, r, torch.softmax(q / params.temperature, -1))


def measured(*runners: Runner) -> Curve:
    """Median milliseconds in which all runners, one after another, are fed each number of tokens in `FED`.

    The tokens are fed behind `CONTEXT` others, and all their rows are wanted.
    """
    taken: dict[int, list[float]] = {count: [] for count in FED}
    slots = [(runner, runner.open()) for runner in runners]
    for count in (CONTEXT, *FED * NUM_TIMINGS):
        started = time.perf_counter()
        for runner, slot in slots:
            runner.feed([Feed(slot, [1] * count, rows=count)])
        taken.setdefault(count, []).append(1000 * (time.perf_counter() - started))
        for runner, slot in slots:
            runner.trim(slot, CONTEXT)
    return [(count, statistics.median(taken[count])) for count in FED]


def report(by_sequence: list[Tensor], members: Curve, drafter: Curve) -> dict[str, Any]:
    """For each budget of nodes the chain and the tree of that many, and the fastest of at most as many."""
    by_rank = torch.cat(by_sequence).mean(0).tolist()

    def row(tree: Tree) -> dict[str, float]:
        mean = float(torch.cat([accepted(tree, own) for own in by_sequence]).mean())
        speed = 1000 * (1 + mean) / milliseconds(tree, members, drafter)
        return {"nodes": size(tree), "height": height(tree), "accepted": mean, "tokens_per_second": speed}

    trees = {bounds: row(tree) for bounds, tree in best_trees(by_rank).items()}
    # With one child a node, a tree of as many levels as nodes is a chain.
    chains = {n: row(tree) for (n, levels), tree in best_trees([1.0]).items() if n == levels}
    fastest = partial(max, key=itemgetter("tokens_per_second"))
    rows = []
    for budget in BUDGETS:
        shapes = {
            "chain": chains[budget],
            "tree": trees[budget, budget],
            "fastest chain": fastest(own for nodes, own in chains.items() if nodes <= budget),
            "fastest tree": fastest(own for (nodes, _), own in trees.items() if nodes <= budget),
        }
        rows += [{"budget": budget, "shape": name, **own} for name, own in shapes.items()]
    return {"acceptance_by_rank": by_rank, "plain_tokens_per_second": 1000 / at(members, 1), "rows": rows}


def show(temperature: float, result: dict[str, Any]) -> None:
    ranks = " ".join(f"{share:.3f}" for share in result["acceptance_by_rank"][:6])
    print(f"\ntemperature {temperature:g}, by rank {ranks} ..., plain {result['plain_tokens_per_second']:.1f} tokens/s")
    print("budget  shape           nodes  height  accepted  tokens/s")
    for row in result["rows"]:
        print("{:>6}  {:<14} {:>6}  {:>6}  {:>8.2f}  {:>8.1f}".format(*row.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ensemble", default="demo:we", help="a bundled ensemble or a YAML file (demo:we)")
    parser.add_argument("--drafter", default="demo:drafter", help="the model that drafts (demo:drafter)")
    parser.add_argument("--prompts", type=int, default=10, help="how many of the bundled prompts (10)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens a sequence, 32 at least (64)")
    parser.add_argument("--cost", type=json.loads, help="of all members, [[tokens, milliseconds], ...]; else measured")
    parser.add_argument("--drafter-cost", type=json.loads, help="of the drafter, likewise")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    base = Ensemble.load(arguments.ensemble, schedule="plain")
    (drafter,) = Ensemble([arguments.drafter], schedule="plain", dtype="float32").runners
    costs = {
        "members": arguments.cost or measured(*base.runners),
        "drafter": arguments.drafter_cost or measured(drafter),
    }
    torch.manual_seed(0)
    reports = {}
    for temperature in (0.0, 1.0):
        params = SamplingParams(max_tokens=arguments.tokens, temperature=temperature, ignore_eos=True, seed=0)
        by_sequence = [ranks_along(base, drafter, prompt, params) for prompt in demo.prompts()[: arguments.prompts]]
        reports[temperature] = report(by_sequence, **costs)
        show(temperature, reports[temperature])
    about = {"version": __version__, "settings": vars(arguments), "machine": platform.machine()}
    print(json.dumps({**about, "costs": costs, "temperatures": reports}))


if __name__ == "__main__":
    main()
