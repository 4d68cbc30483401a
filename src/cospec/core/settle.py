"""Settling: drafts are verified against the target, and where nothing is drafted a token is drawn from it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import CospecError, MemberFailed
from .draws import Purpose, probabilities
from .noise import noisy_argmax
from .sheet import Sheet
from .target import Span, distributions, joined, log_targets, no_distribution
from .tokens import Draft, Token
from .verify import Runs, Verdict, verify_block, verify_coupled, verify_token


def settle(sheets: Sequence[Sheet]) -> list[list[Token] | CospecError]:
    """Of each sheet, decide all positions whose cells are filled and commit them, up to the sequence's end.

    A CospecError stands for a sequence that cannot go on, such as one whose rows are no distribution. What a schedule,
    a combination or verification raises is raised before anything is decided.
    """
    targets = log_targets(sheets)
    blocks = {
        index: Block(sheet, sheet.position, sheet.drafts[: target.shape[0]], target[: len(sheet.drafts)])
        for index, (sheet, target) in enumerate(zip(sheets, targets, strict=True))
        if isinstance(target, Tensor) and sheet.drafts
    }
    verdicts = dict(zip(blocks, _verdicts([*blocks.values()]), strict=True)) if blocks else {}
    outcomes: list[list[Token] | CospecError] = []
    free: list[tuple[Sheet, list[Token], Tensor]] = []
    for index, (sheet, target) in enumerate(zip(sheets, targets, strict=True)):
        if isinstance(target, CospecError):
            outcomes.append(target)
            continue
        settled = _committed(blocks[index], verdicts[index]) if index in blocks else []
        outcomes.append(settled)
        if target is not None and _is_open(sheet, settled, target):
            free.append((sheet, settled, target[-1:]))
    # Nothing is drafted there, and all cells are filled: the target's own token, for free.
    tokens = noisy_argmax([(sheet, sheet.position, log_r) for sheet, _, log_r in free])
    for (sheet, settled, _), (token,) in zip(free, tokens, strict=True):
        settled.append(Token(token))
        sheet.commit(settled[-1])
    return outcomes


def _is_open(sheet: Sheet, settled: list[Token], log_r: Tensor) -> bool:
    """Whether a token may follow these in this round: there is a row for it, and they end neither in a token that
    replaced a draft nor in the sequence's end."""
    has_ended = bool(settled) and (settled[-1].replaced is not None or settled[-1].token in sheet.end_ids)
    return len(settled) < log_r.shape[0] and not has_ended


@dataclass(frozen=True)
class Block:
    """Drafts of a sheet at positions from `start` on, and log of what they are verified against, [drafts, vocab]."""

    sheet: Sheet
    start: int
    drafts: Sequence[Draft]
    log_target: Tensor

    def uniform(self, index: int, purpose: Purpose) -> float:
        return self.sheet.draws.uniform(self.start + index, purpose, self.sheet.epoch)


def _verdicts(blocks: Sequence[Block]) -> list[Verdict]:
    """Of each. Raises MemberFailed where verification raises anything, and has changed nothing then."""
    try:
        return verdicts_of(blocks)
    except Exception as error:
        raise MemberFailed.by(error, "verification") from error


def verdicts_of(blocks: Sequence[Block]) -> list[Verdict]:
    """Of each; blocks under one verification are verified at once."""
    verdicts: dict[int, Verdict] = {}
    alike: dict[tuple[str, torch.device, torch.dtype], list[int]] = defaultdict(list)
    for index, block in enumerate(blocks):
        verification = "coupled" if block.sheet.is_coupled else block.sheet.verification
        alike[verification, block.log_target.device, block.log_target.dtype].append(index)
    for (verification, *_), same in alike.items():
        verified = _coupled if verification == "coupled" else _by_ratio
        verdicts.update(zip(same, verified([blocks[i] for i in same]), strict=True))
    return [verdicts[i] for i in range(len(blocks))]


def _coupled(blocks: Sequence[Block]) -> list[Verdict]:
    tokens = noisy_argmax([(block.sheet, block.start, block.log_target) for block in blocks])
    drafted = [[draft.token for draft in block.drafts] for block in blocks]
    return [verify_coupled(*each) for each in zip(drafted, tokens, strict=True)]


def _by_ratio(blocks: Sequence[Block]) -> list[Verdict]:
    """Verdicts of blocks on one device, all under `token` or all under `block`."""
    drafts = [draft for block in blocks for draft in block.drafts]
    log_target = joined([block.log_target for block in blocks])
    runs = Runs(
        lengths=[len(block.drafts) for block in blocks],
        tokens=torch.tensor([draft.token for draft in drafts], device=log_target.device),
        target=probabilities(log_target),
        draft=torch.stack([draft.probs.to(log_target) for draft in drafts if draft.probs is not None]),
    )
    verify = verify_block if blocks[0].sheet.verification == "block" else verify_token
    return verify(
        runs,
        accept=lambda run, i: blocks[run].uniform(i, Purpose.ACCEPT),
        replace=lambda run, i: blocks[run].uniform(i, Purpose.REPLACE),
    )


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
    """A member verifies the drafters' drafts against its own distribution, so that what is left is a sample of that.

    How many tokens that gives depends on what is drafted before and on draws that no later verdict reads: a stopping
    rule, so that all of them may be put to the next verification as drafts of this member.
    """
    first = sheet.num_refined
    raw, start = sheet.drafts[first:], sheet.position + first
    span = Span(sheet, start, start + len(raw))
    (log_p,) = distributions([(sheet, start, torch.log_softmax(span.of(member), dim=-1))])
    if isinstance(log_p, CospecError):
        raise log_p
    if log_p is None:
        raise no_distribution(sheet.lanes[member].name)
    (verdict,) = verdicts_of([Block(sheet, start, raw, log_p)])
    probs = [None] * len(raw) if sheet.is_coupled else [*probabilities(log_p)]
    accepted = [replace(draft, proposer=member, probs=probs[i]) for i, draft in enumerate(raw[: verdict.accepted])]
    replacement = None
    if verdict.token is not None:
        rejected = raw[verdict.accepted]
        replacement = replace(rejected, token=verdict.token, proposer=member, probs=probs[verdict.accepted])
    sheet.refine(accepted, replacement)
