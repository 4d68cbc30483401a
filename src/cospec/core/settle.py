"""Settling: drafts are verified against the target, and where nothing is drafted a token is drawn from it."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..errors import CospecError, MemberFailed
from .draws import Purpose, probabilities
from .noise import noisy_argmax
from .rows import LogProbs, by_place, joined, picked, spread, value_of
from .select import are_floats_here, is_selected
from .sheet import Sheet
from .summed import LazyLogProbs, SummedRuns
from .target import Span, Unshaped, distributions, log_targets, no_distribution, unshaped_targets
from .tokens import Draft, Token
from .verify import Drafted, Runs, Unsure, Verdict, verify_block, verify_coupled, verify_token


def settle(sheets: Sequence[Sheet]) -> list[list[Token] | CospecError]:
    """Of each sheet, decide all positions whose cells are filled and commit them, up to the sequence's end.

    A CospecError stands for a sequence that cannot go on, such as one whose rows are no distribution. All that can
    raise, a schedule, a combination, verification and the draws, comes before the first sheet is changed.
    """
    rows = _rows_to_settle(sheets)
    if not rows:
        return [[] for _ in sheets]
    # The row behind the drafts is not shaped before they are all accepted.
    drafted = [own.between(0, max(1, len(own.sheet.drafts))) for own in rows.values()]
    targets = dict(zip(rows, log_targets(drafted), strict=True))
    known = {sheet: target for sheet, target in targets.items() if isinstance(target, LogProbs)}
    blocks = {
        sheet: Block(sheet, sheet.position, sheet.drafts[: len(target)], target)
        for sheet, target in known.items()
        if sheet.drafts
    }
    verdicts = dict(zip(blocks, _verdicts([*blocks.values()]), strict=True)) if blocks else {}
    behind = [
        rows[sheet].between(len(block.drafts), len(block.drafts) + 1)
        for sheet, block in blocks.items()
        if _is_open(block, verdicts[sheet], rows[sheet])
    ]
    bonuses = {own.sheet: bonus for own, bonus in zip(behind, distributions(behind), strict=True)}
    # Where nothing is drafted and all cells are filled, the target's own token follows, for free.
    free = {sheet: target for sheet, target in known.items() if not sheet.drafts}
    free |= {sheet: bonus for sheet, bonus in bonuses.items() if isinstance(bonus, LogProbs)}
    tokens = noisy_argmax([(sheet, sheet.frontier, target) for sheet, target in free.items()])
    followed = dict(zip(free, tokens, strict=True))
    errors = {sheet: own for sheet, own in (*targets.items(), *bonuses.items()) if isinstance(own, CospecError)}
    outcomes: list[list[Token] | CospecError] = []
    for sheet in sheets:
        if sheet in errors:
            outcomes.append(errors[sheet])
            continue
        settled = _committed(blocks[sheet], verdicts[sheet]) if sheet in blocks else []
        for token in followed.get(sheet, ()):
            settled.append(Token(token))
            sheet.commit(settled[-1])
        outcomes.append(settled)
    return outcomes


def _rows_to_settle(sheets: Sequence[Sheet]) -> dict[Sheet, Unshaped]:
    """Of the sheets whose next position can be settled, log r before the transforms."""
    # In most rounds of a schedule that drafts there is none.
    may_settle = [sheet for sheet in sheets if any(sheet.lanes[i].has(sheet.position) for i in sheet.members)]
    rows = zip(may_settle, unshaped_targets(may_settle), strict=True) if may_settle else ()
    return {sheet: own for sheet, own in rows if own is not None}


@dataclass(frozen=True)
class Block:
    """Drafts of a sheet at positions from `start` on, and log of what they are verified against, at each."""

    sheet: Sheet
    start: int
    drafts: Sequence[Draft]
    log_target: LogProbs

    def uniform(self, index: int, purpose: Purpose) -> float:
        return self.sheet.draws.uniform(self.start + index, purpose, self.sheet.epoch)


def _is_open(block: Block, verdict: Verdict, rows: Unshaped) -> bool:
    """Whether a token may follow the drafts in this round: all were accepted, none ends the sequence, and there is a
    row for the position behind them."""
    has_ended = verdict.token is not None or block.drafts[-1].token in block.sheet.end_ids
    return len(block.drafts) == len(block.sheet.drafts) < len(rows.log_probs) and not has_ended


def _verdicts(blocks: Sequence[Block]) -> list[Verdict]:
    """Of each. Raises MemberFailed where verification raises anything, and has changed nothing then."""
    try:
        return verdicts_of(blocks)
    except Exception as error:
        raise MemberFailed.by(error, "verification") from None


def verdicts_of(blocks: Sequence[Block]) -> list[Verdict]:
    """Of each; blocks under one verification are verified at once."""
    verdicts: dict[int, Verdict] = {}
    alike: dict[str, list[int]] = defaultdict(list)
    for index, block in enumerate(blocks):
        alike["coupled" if block.sheet.is_coupled else block.sheet.verification].append(index)
    for verification, own in alike.items():
        verified = _coupled if verification == "coupled" else _by_ratio
        if verification != "coupled":
            by_sums = {i: _by_sums(blocks[i]) for i in own}
            verdicts |= {i: verdict for i, verdict in by_sums.items() if verdict is not None}
            own = [i for i in own if i not in verdicts]
        for places in by_place([blocks[i].log_target for i in own]) if own else ():
            same = [own[place] for place in places]
            verdicts.update(zip(same, verified([blocks[i] for i in same]), strict=True))
    return [verdicts[i] for i in range(len(blocks))]


def _coupled(blocks: Sequence[Block]) -> list[Verdict]:
    tokens = noisy_argmax([(block.sheet, block.start, block.log_target) for block in blocks])
    drafted = [[draft.token for draft in block.drafts] for block in blocks]
    return [verify_coupled(*each) for each in zip(drafted, tokens, strict=True)]


def _by_sums(block: Block) -> Verdict | None:
    """The verdict of a block by the sums of its rows; None where there are none, or where it lies within rounding."""
    drafts = [draft.log_probs for draft in block.drafts]
    kind = type(block.log_target)
    if not isinstance(block.log_target, LazyLogProbs) or not all(isinstance(each, kind) for each in drafts):
        return None
    tokens = [draft.token for draft in block.drafts]
    runs = SummedRuns.of(tokens, block.log_target.rows, [each.rows[0] for each in drafts if each])
    try:
        (verdict,) = _verified(runs, [block])
    except Unsure:
        return None
    return verdict


def _verified(runs: Drafted, blocks: Sequence[Block]) -> list[Verdict]:
    verify = verify_block if blocks[0].sheet.verification == "block" else verify_token
    return verify(
        runs,
        accept=lambda run, i: blocks[run].uniform(i, Purpose.ACCEPT),
        replace=lambda run, i: blocks[run].uniform(i, Purpose.REPLACE),
    )


def _by_ratio(blocks: Sequence[Block]) -> list[Verdict]:
    """Verdicts of blocks whose rows can stand in one tensor, all under `token` or all under `block`."""
    drafts = [draft for block in blocks for draft in block.drafts]
    # Rows with columns of their own are one block's.
    target = LogProbs(joined([block.log_target.values for block in blocks]), blocks[0].log_target.ids)
    tokens = [draft.token for draft in drafts]
    runs = Runs(
        lengths=[len(block.drafts) for block in blocks],
        p=_probabilities_of(tokens, target),
        q=_of_tokens(drafts),
        log_target=target.values,
        draft=[partial(_in_columns, draft, target, at) for at, draft in enumerate(drafts)],
        ids=target.ids,
    )
    return _verified(runs, blocks)


def _probabilities_of(tokens: Sequence[int], target: LogProbs) -> list[float]:
    """Of one token at each position."""
    if target.ids is None and is_selected(target.values):
        return LogProbs(probabilities(target.values)).at(tokens)
    return [*map(math.exp, target.at(tokens))]


def _of_tokens(drafts: Sequence[Draft]) -> list[float]:
    """The probabilities that the drafts were drawn with."""
    if all(are_floats_here(_probs(draft)) for draft in drafts):
        return [_of_token(draft) for draft in drafts]
    tokens = [torch.tensor([draft.token], device=_probs(draft).device) for draft in drafts]
    own = [picked(_probs(draft), _ids(draft), token) for draft, token in zip(drafts, tokens, strict=True)]
    probs: list[float] = torch.cat([each.to(own[0]) for each in own]).tolist()
    return probs


def _of_token(draft: Draft) -> float:
    """The probability that one was drawn with, on a CPU."""
    ids = _ids(draft)
    own = None if ids is None else ids.numpy()
    return value_of(_probs(draft).detach().numpy(), own, draft.token, 0.0)


def _in_columns(draft: Draft, target: LogProbs, at: int) -> Tensor:
    """What the draft was drawn from, in the target's columns at its place. Other tokens leave nothing of the target."""
    probs = _probs(draft).to(target.values)
    ids = _ids(draft)
    ids = None if ids is None else ids.to(probs.device)
    if target.ids is not None:
        return picked(probs, ids, target.ids[at])
    return probs if ids is None else spread(probs, ids, target.values.shape[-1], 0.0)


def _probs(draft: Draft) -> Tensor:
    if draft.log_probs is not None:
        return draft.log_probs.probabilities[0]
    assert draft.probs is not None, "a draft that is verified by ratios is kept with its distribution"
    return draft.probs


def _ids(draft: Draft) -> Tensor | None:
    return draft.ids if draft.log_probs is None else draft.log_probs.ids_at(0)


def _committed(block: Block, verdict: Verdict) -> list[Token]:
    """Commit the accepted drafts, and the token that replaces the first rejected one."""
    sheet = block.sheet
    settled = []
    for draft in block.drafts[: verdict.accepted]:
        settled.append(Token(draft.token, proposer=draft.proposer, confidence=draft.confidence))
        sheet.commit(settled[-1])
    if verdict.token is not None:
        rejected = block.drafts[verdict.accepted]
        sheet.rollback()
        settled.append(
            Token(
                verdict.token,
                replaced=rejected.token,
                rejected=rejected.proposer,
                confidence=rejected.confidence,
            )
        )
        sheet.commit(settled[-1])
    return settled


def refine(sheet: Sheet, member: int) -> None:
    """The member verifies the drafters' drafts as if it were the target. The accepted ones and the replacement are
    distributed as the member's own samples, and become drafts with its distribution as q.

    How many there are depends on what is drafted before and on draws that no later verdict reads: a stopping rule, so
    that all of them may be put to the next verification.
    """
    first = sheet.num_refined
    raw, start = sheet.drafts[first:], sheet.position + first
    span = Span(sheet, start, start + len(raw))
    (log_p,) = distributions([Unshaped(sheet, start, span.of(member), [member], are_logits=True)])
    if isinstance(log_p, CospecError):
        raise log_p
    if log_p is None:
        raise no_distribution(sheet.lanes[member].name)
    raw = raw[: len(log_p)]
    (verdict,) = verdicts_of([Block(sheet, start, raw, log_p)])
    probs = [None] * len(raw) if sheet.is_coupled else [*probabilities(log_p.values)]
    own = [
        replace(draft, proposer=member, probs=row, log_probs=None, ids=None if row is None else log_p.ids_at(at))
        for at, (draft, row) in enumerate(zip(raw, probs, strict=True))
    ]
    replacement = None if verdict.token is None else replace(own[verdict.accepted], token=verdict.token)
    sheet.refine(own[: verdict.accepted], replacement)
