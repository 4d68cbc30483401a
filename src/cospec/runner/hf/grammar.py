"""Structured output: which tokens a JSON schema, a regular expression or a grammar allows next (llguidance)."""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...errors import InvalidSampling, MissingExtra

KINDS = ("json_schema", "regex", "lark")
# What finding out what may come next may cost, in llguidance's units: some milliseconds, in which all texts wait.
MOST_WORK = 20_000
# Room between the parts of JSON, for indentation too, but not so much that a weak model fills its answer with it.
JSON_OPTIONS = {"whitespace_pattern": r"\n[ \t]{0,32}|[ ]{1,2}"}


class Grammars:
    """Grammars over one tokenizer's entries. end_ids: tokens any of which ends a text, where its grammar may end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_ids = [token for token in end_ids if token < vocab_size]

    def read(self, kind: str, source: str | dict[str, Any]) -> "Grammar":
        """kind: one of KINDS. Raises InvalidSampling for a grammar, or a tokenizer, that cannot be read."""
        lib, tokenizer = self._lib, self._entries
        matcher = None
        try:
            text = json.dumps(source) if isinstance(source, dict) else source
            options = {"defaults": JSON_OPTIONS} if kind == "json_schema" else {}
            grammar = getattr(lib.LLMatcher, f"grammar_from_{kind}")(text, **options)
            matcher = lib.LLMatcher(tokenizer, grammar, log_level=0, limits=self._limits)
            if not matcher.is_error():
                # What the first tokens may be is the most work, and it is done here once for all texts.
                matcher.compute_bitmask()
            error = _reason(matcher) if matcher.is_error() else ""
        except (ValueError, TypeError, RecursionError) as raised:
            error = str(raised) or type(raised).__name__
        if error:
            raise InvalidSampling(f"the {kind} cannot be followed: {' '.join(str(error).split())[:500]}")
        return Grammar(matcher, self._end_ids, self._vocab_size)

    @cached_property
    def _lib(self) -> Any:
        try:
            import llguidance
            import llguidance.hf
        except ImportError:
            raise MissingExtra("structured output needs llguidance: pip install 'cospec[serve]'") from None
        return llguidance

    @cached_property
    def _limits(self) -> Any:
        return self._lib.LLParserLimits(step_lexer_fuel=MOST_WORK)

    @cached_property
    def _entries(self) -> Any:
        if not self._end_ids:
            raise InvalidSampling("structured output ends with a token that ends the text, and these members have none")
        try:
            return self._lib.hf.from_tokenizer(self._tokenizer, n_vocab=self._vocab_size, eos_token=self._end_ids[0])
        except ValueError as error:
            raise InvalidSampling(f"structured output cannot be had with this tokenizer: {error}") from error


class Grammar:
    """A grammar that was read, for any number of texts."""

    def __init__(self, matcher: Any, end_ids: Sequence[int], vocab_size: int) -> None:
        self._matcher = matcher
        self._end_ids = end_ids
        self._vocab_size = vocab_size

    def constraint(self) -> "GrammarConstraint":
        """What keeps one text to it."""
        return GrammarConstraint(self._matcher.deep_copy(), self._end_ids, self._vocab_size)


class GrammarConstraint:
    """What one text may go on with. Its matcher stands behind the tokens that were last asked about, and goes back to
    where a new question parts from them: drafts come and go."""

    def __init__(self, matcher: Any, end_ids: Sequence[int], vocab_size: int) -> None:
        self._matcher = matcher
        self._end_ids = end_ids
        self._read: list[int] = []
        self._num_words = (vocab_size + 31) // 32
        self._vocab_size = vocab_size

    def allowed(self, output: Sequence[int], start: int, count: int) -> Tensor:
        """[count, vocab] of booleans: row j is what may follow output[: start + j]. Raises InvalidSampling for a
        grammar that turns out to be too much."""
        self._go_back(output[:start])
        return torch.stack([self._after(output, start + row) for row in range(count)])

    def _after(self, output: Sequence[int], length: int) -> Tensor:
        """What may follow output[: length], of which the matcher has read a part."""
        for token in output[len(self._read) : length]:
            if not self._is_read(token):
                # The text ends, or breaks the grammar, before this position, which is then never reached.
                return torch.ones(self._vocab_size, dtype=torch.bool)
        words = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.int32)[: self._num_words]
        self._check()
        bits = (words[:, None] >> torch.arange(32, dtype=torch.int32)) & 1
        allowed = bits.flatten()[: self._vocab_size].bool()
        if allowed[self._end_ids[0]]:
            # The one that the matcher knows: where it may stand, any of them may.
            allowed[self._end_ids] = True
        return allowed

    def _is_read(self, token: int) -> bool:
        """Whether the grammar allows the token next, which the matcher then stands behind; it never reads an end."""
        can_go_on = token not in self._end_ids and not self._matcher.is_stopped()
        if can_go_on and self._matcher.try_consume_tokens([token]):
            self._read.append(token)
            return True
        self._check()
        return False

    def _check(self) -> None:
        """Raises InvalidSampling if the matcher has given up: it then says that the text may end, and stays so."""
        if self._matcher.is_error():
            raise InvalidSampling(f"the grammar cannot be followed any further: {_reason(self._matcher)}")

    def _go_back(self, tokens: Sequence[int]) -> None:
        """Forget what was read beyond `tokens`, or other than them."""
        num_shared = _num_shared(self._read, list(tokens))
        if num_shared < len(self._read):
            self._matcher.rollback(len(self._read) - num_shared)
            del self._read[num_shared:]


def _reason(matcher: Any) -> str:
    """Why it has given up. Behind that stand the text itself and counts."""
    return str(matcher.get_error()).partition("<state>")[0].strip()


def _num_shared(a: list[int], b: list[int]) -> int:
    """How many tokens both begin with. Whole stretches are compared at once, since texts are long and differ late."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
