"""What `trace: true` streams: every settled token, and after each round who was fed what, who was called how
often so far, and what is drafted."""

from collections.abc import Callable, Sequence
from typing import Any

from ..core.engine import Update
from ..core.live import Live


class Tracer:
    """One text's trace, round by round."""

    def __init__(self) -> None:
        self._round = 0
        self._seen: dict[str, int] = {}

    def round(self, live: Live, update: Update) -> list[dict[str, Any]]:
        """The events of a round. Tokens are given by id; `spelled` adds their text."""
        sequence = live.sequence
        name = [lane.name for lane in sequence.lanes]
        self._round += 1
        first = sequence.position - len(update.tokens)
        events: list[dict[str, Any]] = [
            {
                "event": "settled",
                "position": first + offset,
                "token_id": token.settled.token,
                "text": token.text,
                "proposer": None if token.settled.proposer is None else name[token.settled.proposer],
                "replaced_id": token.settled.replaced,
                "rejected": None if token.settled.rejected is None else name[token.settled.rejected],
            }
            for offset, token in enumerate(update.tokens)
        ]
        drafts = [
            {"position": sequence.position + offset, "proposer": name[draft.proposer], "token_id": draft.token}
            for offset, draft in enumerate(sequence.drafts)
        ]
        calls = {lane.name: lane.calls for lane in sequence.lanes}
        told = {"event": "round", "round": self._round, "fed": self._fed(live), "calls": calls, "drafts": drafts}
        return [*events, told]

    def _fed(self, live: Live) -> dict[str, list[int]]:
        """The first and last position that each lane that was fed now stands behind, or has a row for."""
        fed = {}
        for lane in live.sequence.lanes:
            before = self._seen.get(lane.name, -1)
            if lane.calls and lane.seen > before:
                fed[lane.name] = [before + 1, lane.seen]
            self._seen[lane.name] = lane.seen
        return fed


def spelled(events: Sequence[dict[str, Any]], index: int, spell: Callable[[int], str]) -> list[dict[str, Any]]:
    """The events of the choice `index`, with each token's text beside its id."""
    return [{"index": index, **_spelled(event, spell)} for event in events]


def _spelled(event: dict[str, Any], spell: Callable[[int], str]) -> dict[str, Any]:
    told = dict(event)
    if "token_id" in told:
        told["token"] = spell(told["token_id"])
    if "replaced_id" in told:
        told["replaced"] = None if told["replaced_id"] is None else spell(told["replaced_id"])
    if "drafts" in told:
        told["drafts"] = [_spelled(draft, spell) for draft in told["drafts"]]
    return told
