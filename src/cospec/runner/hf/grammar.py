"""Structured output: the tokens that a JSON schema, a regular expression or a grammar allows next (llguidance)."""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...errors import InvalidSampling, MissingExtra

KINDS = ("json_schema", "regex", "lark")
# The most work that finding the next tokens may take, in llguidance's units: some milliseconds, in which all sequences
# wait.
MOST_WORK = 20_000
# White space between the parts of JSON: enough for indentation, too little for a weak model to fill its answer with it.
JSON_OPTIONS = {"whitespace_pattern": r"\n[ \t]{0,32}|[ ]{1,2}"}


class GrammarCompiler:
    """Compiles grammars over one tokenizer's vocabulary. end_ids: tokens any of which ends a sequence, where its
    grammar may end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_ids = [token for token in end_ids if token < vocab_size]

    def compile(self, kind: str, source: str | dict[str, Any]) -> "CompiledGrammar":
        """kind: one of KINDS. Raises InvalidSampling for a grammar, or a tokenizer, that llguidance cannot read."""
        lib, tokenizer = self._lib, self._lib_tokenizer
        matcher = None
        try:
            text = json.dumps(source) if isinstance(source, dict) else source
            options = {"defaults": JSON_OPTIONS} if kind == "json_schema" else {}
            grammar = getattr(lib.LLMatcher, f"grammar_from_{kind}")(text, **options)
            limits = lib.LLParserLimits(step_lexer_fuel=MOST_WORK)
            matcher = lib.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
            if not matcher.is_error():
                # Finding the first tokens is the most work, and is done here once for all sequences.
                matcher.compute_bitmask()
            error = _reason(matcher) if matcher.is_error() else ""
        except (ValueError, TypeError, RecursionError) as raised:
            error = str(raised) or type(raised).__name__
        if error:
            raise InvalidSampling(f"the {kind} cannot be followed: {' '.join(str(error).split())[:500]}")
        return CompiledGrammar(matcher, self._end_ids, self._vocab_size)

    @cached_property
    def _lib(self) -> Any:
        try:
            import llguidance
            import llguidance.hf
        except ImportError:
            raise MissingExtra("structured output needs llguidance: pip install 'cospec[serve]'") from None
        return llguidance

    @cached_property
    def _lib_tokenizer(self) -> Any:
        if not self._end_ids:
            raise InvalidSampling("structured output ends with a token that ends the text, and these members have none")
        try:
            return self._lib.hf.from_tokenizer(self._tokenizer, n_vocab=self._vocab_size, eos_token=self._end_ids[0])
        except ValueError as error:
            raise InvalidSampling(f"structured output cannot be had with this tokenizer: {error}") from error


class CompiledGrammar:
    """A grammar for any number of sequences."""

    def __init__(self, matcher: Any, end_ids: Sequence[int], vocab_size: int) -> None:
        self._matcher = matcher
        self._end_ids = end_ids
        self._vocab_size = vocab_size

    def constraint(self) -> "GrammarConstraint":
        """The constraint of one sequence."""
        return GrammarConstraint(self._matcher.deep_copy(), self._end_ids, self._vocab_size)


class GrammarConstraint:
    """The tokens that one sequence may go on with.

    Drafts come and go, so the matcher, which has consumed the tokens of the last call, is rolled back to where the next
    call's tokens differ.
    """

    def __init__(self, matcher: Any, end_ids: Sequence[int], vocab_size: int) -> None:
        self._matcher = matcher
        self._end_ids = end_ids
        self._consumed: list[int] = []
        self._num_words = (vocab_size + 31) // 32
        self._vocab_size = vocab_size

    def allowed(self, output: Sequence[int], start: int, count: int) -> Tensor:
        """[count, vocab] of booleans: row j is what may follow output[: start + j].

        Raises InvalidSampling for a grammar that exceeds llguidance's limits only behind some tokens.
        """
        num_shared = _num_shared(self._consumed, list(output[:start]))
        if num_shared < len(self._consumed):
            self._matcher.rollback(len(self._consumed) - num_shared)
            del self._consumed[num_shared:]
        return torch.stack([self._after(output, start + row) for row in range(count)])

    def _after(self, output: Sequence[int], length: int) -> Tensor:
        """[vocab]: what may follow output[:length], of which the matcher has consumed a prefix."""
        for token in output[len(self._consumed) : length]:
            if not self._consume(token):
                # The sequence ends, or breaks the grammar, before this position, which is then never reached.
                return torch.ones(self._vocab_size, dtype=torch.bool)
        words = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.int32)[: self._num_words]
        self._check()
        bits = (words[:, None] >> torch.arange(32, dtype=torch.int32)) & 1
        allowed = bits.flatten()[: self._vocab_size].bool()
        if allowed[self._end_ids[0]]:
            # The matcher knows this end token alone; any other may stand where it may.
            allowed[self._end_ids] = True
        return allowed

    def _consume(self, token: int) -> bool:
        """Whether the grammar allows the token next; if so the matcher moves behind it. End tokens are not consumed."""
        can_go_on = token not in self._end_ids and not self._matcher.is_stopped()
        if can_go_on and self._matcher.try_consume_tokens([token]):
            self._consumed.append(token)
            return True
        self._check()
        return False

    def _check(self) -> None:
        """Raises InvalidSampling after an error of the matcher, which from then on would allow the end alone."""
        if self._matcher.is_error():
            raise InvalidSampling(f"the grammar cannot be followed any further: {_reason(self._matcher)}")


def _reason(matcher: Any) -> str:
    """The matcher's error, without its state, which repeats the text."""
    return str(matcher.get_error()).partition("<state>")[0].strip()


def _num_shared(a: list[int], b: list[int]) -> int:
    """The length of the common prefix, by bisection: sequences are long and differ late, and slices compare fast."""
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
