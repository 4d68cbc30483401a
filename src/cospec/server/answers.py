"""Parts of answers in JSON: their head, usage, metrics, log-probabilities, and the trace."""

import time
import uuid
from collections.abc import Callable
from collections.abc import Sequence as Values
from dataclasses import asdict, dataclass, field
from typing import Any

from ..core.counts import Counts
from ..core.events import Event, Result
from ..core.sheet import Sheet
from ..core.text import ByteDecoder
from ..core.tokens import Token, TokenLogprob
from .codec import Codec

# Reported for the logarithm of zero, as by OpenAI and other servers: JSON has no infinity.
LOWEST = -9999.0


def head(kind: str, model: str) -> dict[str, Any]:
    """The fields that all chunks of one answer share. kind: its `object`."""
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def metrics(results: Values[Result], submitted: float, seconds_to_first: float | None) -> dict[str, Any]:
    """Speed, forward passes by member and drafter, and drafts by proposer; summed over the sequences.

    submitted: when the request arrived, by the performance counter. seconds_to_first: from then to its first token.
    """
    seconds = time.perf_counter() - submitted
    first, total = results[0], Counts.total(result.counts for result in results)
    return {
        "time_to_first_token_ms": None if seconds_to_first is None else 1000 * seconds_to_first,
        "tokens_per_second": total.tokens / seconds,
        "schedule": first.schedule,
        "plan": first.plan,
        "verification": first.verification,
        "members": {name: asdict(total.lanes[name]) for name in first.members},
        "drafters": {name: asdict(total.lanes[name]) for name in first.drafters},
        "speculative_decoding": {
            "num_drafts": total.verified.blocks,
            "num_draft_tokens": total.verified.drafted,
            "num_accepted_tokens": total.verified.accepted,
            "proposers": {
                name: {
                    "proposed": drafts.proposed,
                    "accepted": drafts.accepted,
                    "dropped": drafts.dropped,
                    "acceptance_rate": drafts.acceptance,
                }
                for name, drafts in total.proposers.items()
            },
        },
    }


class Offsets:
    """Where tokens stand in a text, in characters; a token that is part of a character stands where that begins, and a
    special one, which the text does not have, where the next one does.

    start: where the first stands. prompt: what was decoded before it. places: where the prompt's tokens stand, which
    are then the first to be placed.
    """

    def __init__(
        self, codec: Codec, start: int = 0, prompt: Values[int] = (), places: Values[int] | None = None
    ) -> None:
        self._codec = codec
        self._places = iter(places or ())
        # The space that the prompt's last word ends with stands in front of the answer.
        last = next(filter(None, map(codec.speller.bytes_of, reversed(prompt))), b"")
        self._next = start + (codec.drops_last_space and last.endswith(b" "))
        before = prompt if places is None else ()
        self._decoder = ByteDecoder(codec.speller.bytes_of, before, drops_space=codec.drops_space)

    def place(self, token: int) -> tuple[str, int]:
        """How the next token is spelled, and where it stands."""
        text, spelled = self._decoder.push(token), self._codec.speller.spell(token)
        offset = next(self._places, None)
        if offset is None:
            offset = self._next
            self._next += len(text)
        # In front of a text a word has lost its space.
        return text if spelled == f" {text}" else spelled, offset


def echoed_offsets(codec: Codec, text: str | None, tokens: Values[int]) -> Offsets:
    """Of an echoed prompt and its answer. text: the prompt as the client wrote it, None for token ids.

    A tokenizer may read another text than the prompt's, in lower case say, or one in which special tokens are spelled:
    then each token stands where the tokenizer found it, and the answer behind the prompt.
    """
    if text is None or codec.text(tokens) == text:
        return Offsets(codec)
    places, tokenwise = codec.starts(text), Offsets(codec)
    if places is None or len(places) != len(tokens):
        places = [min(tokenwise.place(token)[1], len(text)) for token in tokens]
    return Offsets(codec, len(text), tokens, places)


def completion_logprobs(
    codec: Codec, entries: Values[TokenLogprob | None], ids: Values[int], offsets: Offsets
) -> dict[str, Any]:
    """OpenAI's parallel lists for a completion. ids: the tokens. entries: one for each, None for a prompt's first."""

    def top(entry: TokenLogprob) -> dict[str, float]:
        # The token itself is always listed, and first.
        listed = dict([(entry.token, entry.logprob), *entry.top])
        return {
            spelled: max(logprob, LOWEST)
            for spelled, logprob in zip(codec.speller.spell_apart(listed), listed.values(), strict=True)
        }

    places = [offsets.place(token) for token in ids]
    return {
        "tokens": [spelled for spelled, _ in places],
        "token_logprobs": [None if entry is None else max(entry.logprob, LOWEST) for entry in entries],
        "top_logprobs": [{} if entry is None else top(entry) for entry in entries],
        "text_offset": [offset for _, offset in places],
    }


def chat_logprobs(codec: Codec, entries: Values[TokenLogprob]) -> dict[str, Any]:
    """OpenAI's list of objects for a chat."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": codec.speller.spell(token),
            "logprob": max(logprob, LOWEST),
            "bytes": list(codec.speller.bytes_of(token)),
        }

    return {
        "content": [
            {**one(entry.token, entry.logprob), "top_logprobs": [one(*each) for each in entry.top]} for entry in entries
        ],
        "refusal": None,
    }


@dataclass
class StreamedChoice:
    """One choice of a stream: what was sent of it, and what waits to be sent."""

    offsets: Offsets
    num_tokens: int = 0
    has_begun: bool = False
    _texts: list[str] = field(default_factory=list)
    _entries: list[TokenLogprob] = field(default_factory=list)

    def push(self, event: Event, *, has_logprobs: bool) -> tuple[str, list[TokenLogprob]]:
        """The text and log-probabilities to send now. A token waits for its log-probability, which may be known some
        rounds later."""
        self.num_tokens += len(event.tokens)
        self._texts += [token.text for token in event.tokens]
        self._entries += [entry for entry in event.logprobs if entry.position >= 0]
        count = min(len(self._texts), len(self._entries)) if has_logprobs else len(self._texts)
        text, entries = "".join(self._texts[:count]), self._entries[:count]
        del self._texts[:count], self._entries[:count]
        return text, entries


class Tracer:
    """One sequence's trace, which `trace: true` streams. index: its choice. spell: a token as text.

    Each round has an entry for every settled token, and one for the positions that each lane was fed, its forward
    passes so far, and the drafts that are not decided yet. It reads the sheet: call it in the engine's thread.
    """

    def __init__(self, index: int, spell: Callable[[int], str]) -> None:
        self._index = index
        self._spell = spell
        self._round = 0
        self._seen: dict[str, int] = {}

    def trace(self, event: Event) -> list[dict[str, Any]]:
        """The entries of the round that the event is of, ready for JSON."""
        sheet = event.sheet
        self._round += 1
        first = sheet.position - len(event.tokens)
        settled = [self._settled(sheet, position, token) for position, token in enumerate(event.tokens, start=first)]
        drafts = [
            {
                "position": position,
                "proposer": sheet.lanes[draft.proposer].name,
                "token_id": draft.token,
                "token": self._spell(draft.token),
            }
            for position, draft in enumerate(sheet.drafts, start=sheet.position)
        ]
        done = {
            "index": self._index,
            "event": "round",
            "round": self._round,
            "fed": self._fed(sheet),
            "calls": {lane.name: lane.counts.calls for lane in sheet.lanes},
            "drafts": drafts,
        }
        return [*settled, done]

    def _settled(self, sheet: Sheet, position: int, token: Token) -> dict[str, Any]:
        def name(lane: int | None) -> str | None:
            return None if lane is None else sheet.lanes[lane].name

        return {
            "index": self._index,
            "event": "settled",
            "position": position,
            "token_id": token.token,
            "text": token.text,
            "proposer": name(token.proposer),
            "replaced_id": token.replaced,
            "rejected": name(token.rejected),
            "token": self._spell(token.token),
            "replaced": None if token.replaced is None else self._spell(token.replaced),
        }

    def _fed(self, sheet: Sheet) -> dict[str, list[int]]:
        """By lane that was fed in this round: the first and the last position that it has a new row for."""
        fed = {}
        for lane in sheet.lanes:
            before = self._seen.get(lane.name, -1)
            if lane.counts.calls and lane.seen > before:
                fed[lane.name] = [before + 1, lane.seen]
            self._seen[lane.name] = lane.seen
        return fed
