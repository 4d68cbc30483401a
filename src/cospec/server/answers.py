"""What clients get: completions, chats and their chunks, with usage, log-probabilities and metrics."""

import codecs
import time
import uuid
from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Values
from dataclasses import asdict, dataclass, field
from typing import Any

from ..core.events import Result
from ..core.tokens import Token, TokenLogprob
from .decoding import Decoder
from .host import Job

# What OpenAI and serving engines write for the logarithm of zero.
LOWEST = -9999.0


@dataclass(frozen=True)
class Envelope:
    """What all chunks of an answer have in common."""

    kind: str
    model: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def of(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        prefix = "chatcmpl" if self.kind.startswith("chat") else "cmpl"
        head = {"id": f"{prefix}-{self.id}", "object": self.kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def metrics(job: Job, results: Values[Result]) -> dict[str, Any]:
    """How fast it went, who was called how often, and whose drafts stood. Of several texts: their sums."""
    seconds = time.perf_counter() - job.submitted
    first = job.first_token - job.submitted if job.first_token is not None else None
    verified = [result.verified for result in results]
    proposers = _summed(result.proposers for result in results)
    for stats in proposers.values():
        stats["acceptance_rate"] = stats["accepted"] / stats["proposed"] if stats["proposed"] else None
    return {
        "time_to_first_token_ms": None if first is None else 1000 * first,
        "tokens_per_second": job.num_told(sum(result.completion_tokens for result in results)) / seconds,
        "schedule": results[0].schedule if results else None,
        "plan": results[0].plan if results else None,
        "verification": results[0].verification if results else None,
        "members": _summed(result.members for result in results),
        "drafters": _summed(result.drafters for result in results),
        "speculative_decoding": {
            "num_drafts": sum(stats.blocks for stats in verified),
            "num_draft_tokens": sum(stats.drafted for stats in verified),
            "num_accepted_tokens": sum(stats.accepted for stats in verified),
            "proposers": proposers,
        },
    }


def _summed(stats: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name -> the sum of each count."""
    total: dict[str, dict[str, Any]] = {}
    for by_name in stats:
        for name, own in by_name.items():
            into = total.setdefault(name, {})
            for key, value in asdict(own).items():
                if not isinstance(value, list | tuple):
                    into[key] = into.get(key, 0) + value
    return total


class Offsets:
    """Where tokens begin in a text, in characters; what is a part of a character, where that does."""

    def __init__(self, at: int = 0) -> None:
        self._at = at
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: bytes) -> int:
        """Of the next token."""
        at = self._at
        self._at += len(self._decoder.decode(token))
        return at


def completion_logprobs(
    decoder: Decoder, entries: Values[TokenLogprob | None], ids: Values[int], offsets: Offsets
) -> dict[str, Any]:
    """OpenAI's lists of a completion. ids: the tokens. entries: each token's, None for a first one."""
    return {
        "tokens": [decoder.spell(token) for token in ids],
        "token_logprobs": [None if entry is None else _told(entry.logprob) for entry in entries],
        "top_logprobs": [{} if entry is None else _top(decoder, entry) for entry in entries],
        "text_offset": [offsets.push(decoder.bytes_of(token)) for token in ids],
    }


def _top(decoder: Decoder, entry: TokenLogprob) -> dict[str, float]:
    """The likeliest tokens, and the token itself. Of two tokens that read the same, the likelier one's."""
    listed = [(entry.token, entry.logprob), *reversed(entry.top)]
    return {decoder.spell(token): _told(logprob) for token, logprob in listed}


def _told(logprob: float) -> float:
    """JSON has no infinity, which is the logarithm of what cannot be."""
    return max(logprob, LOWEST)


def chat_logprobs(decoder: Decoder, entries: Values[TokenLogprob]) -> dict[str, Any]:
    def told(token: int, logprob: float) -> dict[str, Any]:
        return {"token": decoder.spell(token), "logprob": _told(logprob), "bytes": list(decoder.bytes_of(token))}

    return {
        "content": [
            {**told(entry.token, entry.logprob), "top_logprobs": [told(*each) for each in entry.top]}
            for entry in entries
        ],
        "refusal": None,
    }


class Pairs:
    """Tokens as they come, and their log-probabilities, which may come later: those that have both."""

    def __init__(self) -> None:
        self._tokens: deque[Token] = deque()
        self._entries: deque[TokenLogprob] = deque()

    def push(self, tokens: Values[Token], entries: Values[TokenLogprob]) -> list[tuple[Token, TokenLogprob]]:
        self._tokens.extend(tokens)
        self._entries.extend(entry for entry in entries if entry.position >= 0)
        count = min(len(self._tokens), len(self._entries))
        return [(self._tokens.popleft(), self._entries.popleft()) for _ in range(count)]
