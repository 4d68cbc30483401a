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


class Grammars:
    """Grammars over one tokenizer's entries."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = vocab_size

    def constraint(self, kind: str, source: str | dict[str, Any]) -> "GrammarConstraint":
        """One text's constraint. kind: one of KINDS. Raises InvalidSampling for a grammar that cannot be read."""
        lib, tokenizer = self._lib, self._entries
        text = json.dumps(source) if isinstance(source, dict) else source
        try:
            grammar = getattr(lib.LLMatcher, f"grammar_from_{kind}")(text)
            error = lib.LLMatcher.validate_grammar(grammar, tokenizer)
        except (ValueError, TypeError) as raised:
            error = str(raised)
        if error:
            raise InvalidSampling(f"the {kind} cannot be followed: {' '.join(str(error).split())[:500]}")
        return GrammarConstraint(lib.LLMatcher(tokenizer, grammar), self._tokenizer.eos_token_id, self.vocab_size)

    @cached_property
    def _lib(self) -> Any:
        try:
            import llguidance
            import llguidance.hf
        except ImportError:
            raise MissingExtra("structured output needs llguidance: pip install 'cospec[serve]'") from None
        return llguidance

    @cached_property
    def _entries(self) -> Any:
        return self._lib.hf.from_tokenizer(self._tokenizer, n_vocab=self.vocab_size)


class GrammarConstraint:
    """What one text may go on with. Its matcher stands behind the tokens that were last asked about, and goes back to
    where a new question parts from them: drafts come and go."""

    def __init__(self, matcher: Any, end_id: int, vocab_size: int) -> None:
        self._matcher = matcher
        self._end_id = end_id
        self._read: list[int] = []
        self._num_words = (vocab_size + 31) // 32
        self._vocab_size = vocab_size

    def allowed(self, output: Sequence[int], start: int, count: int) -> Tensor:
        """[count, vocab] of booleans: row j is what may follow output[: start + j]."""
        return torch.stack([self._after(output[: start + row]) for row in range(count)])

    def _after(self, tokens: Sequence[int]) -> Tensor:
        if not self._move_to(list(tokens)):
            # The text breaks the grammar before this position, which is then never reached.
            return torch.ones(self._vocab_size, dtype=torch.bool)
        if self._matcher.is_stopped():
            return torch.arange(self._vocab_size) == self._end_id
        words = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.int32)[: self._num_words]
        bits = (words[:, None] >> torch.arange(32, dtype=torch.int32)) & 1
        return bits.flatten()[: self._vocab_size].bool()

    def _move_to(self, tokens: list[int]) -> bool:
        """Whether the matcher could read all of them."""
        shared = next((i for i, (a, b) in enumerate(zip(self._read, tokens, strict=False)) if a != b), None)
        shared = min(len(self._read), len(tokens)) if shared is None else shared
        if shared < len(self._read):
            self._matcher.rollback(len(self._read) - shared)
        new = tokens[shared:]
        count = self._matcher.try_consume_tokens(new) if new else 0
        self._read = tokens[: shared + count]
        return count == len(new)
