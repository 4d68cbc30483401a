"""An index of contexts for lookup drafting: what followed the same tokens earlier, in this sequence or in past ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Ends a sequence within the index; no token id is negative.
_BORDER = -1


@dataclass(frozen=True)
class Guess:
    """A drafted token, and its share among what has followed the same context so far."""

    token: int
    probability: float


class _Node:
    """A context, as long as its depth in the trie.

    visits: how often it occurred. position: index of the token behind its last occurrence, which may be still to come.
    children: its continuations; None as long as it occurred once, since `position` alone determines that one.
    best: the most frequent child's token, of equals the latest.
    """

    __slots__ = ("best", "children", "position", "visits")

    def __init__(self, position: int) -> None:
        self.visits = 1
        self.position = position
        self.children: dict[int, _Node] | None = None
        self.best: int | None = None


class SuffixIndex:
    """Past sequences and a growing one, as a trie of contexts (suffix decoding, Oliaro et al. 2024).

    depth: the most tokens of a context. A draft has at most factor · match tokens, where match is the length of the
    context found, and the product of its probabilities is at least `floor`. Token ids are not negative.

    What is drafted depends on the sequences and the context alone, not on the chunks that the sequences came in.
    """

    def __init__(self, *, depth: int = 16, factor: float = 2.0, floor: float = 0.1) -> None:
        self.depth = depth
        self.factor = factor
        self.floor = floor
        self._tokens: list[int] = []
        self._root = _Node(0)
        self._root.children = {}
        # The growing sequence's suffixes of 0, 1, 2, ... tokens that occurred before.
        self._suffixes = [self._root]

    def add_sequence(self, tokens: Iterable[int]) -> None:
        """Add a whole past sequence. No match crosses its ends; what is extended afterwards is another sequence."""
        self._end_sequence()
        self.extend(tokens)
        self._end_sequence()

    def extend(self, tokens: Iterable[int]) -> None:
        """Append to the growing sequence. Takes at most depth + 1 steps a token: one for each suffix that occurred
        before."""
        for token in tokens:
            self._tokens.append(token)
            longer = [self._root]
            for suffix in self._suffixes:
                child = self._visit(suffix, token)
                if child is not None:
                    longer.append(child)
            self._suffixes = longer[: self.depth + 1]

    def draft(self, context: Sequence[int], limit: int) -> list[Guess]:
        """At most `limit` tokens to follow `context`; none if not even its last token was followed by anything.

        Each is the most frequent token after the longest known context, which is never shorter than the first one was.
        """
        tokens = list(context[-self.depth :])
        guesses: list[Guess] = []
        score = 1.0
        found = self._longest(tokens, len(tokens), 1)
        if found is None:
            return []
        first, _ = found
        while found is not None and len(guesses) < min(limit, self.factor * first):
            match, guess = found
            score *= guess.probability
            if score < self.floor:
                break
            guesses.append(guess)
            tokens.append(guess.token)
            found = self._longest(tokens, min(match + 1, self.depth), first)
        return guesses

    def _end_sequence(self) -> None:
        self._tokens.append(_BORDER)
        self._suffixes = [self._root]

    def _visit(self, context: _Node, token: int) -> _Node | None:
        """Count `token`, the last one appended, after `context`. The longer context, if it occurred before."""
        assert context.children is not None
        position = len(self._tokens)
        child = context.children.get(token)
        if child is None:
            visited = context.children[token] = _Node(position)
        else:
            if child.children is None:
                self._expand(child)
            child.visits += 1
            child.position = position
            visited = child
        if context.best is None or visited.visits >= context.children[context.best].visits:
            context.best = token
        return child

    def _expand(self, node: _Node) -> None:
        """Give a node, before its second visit, the child that its first visit left implicit in `position`."""
        token = self._tokens[node.position]
        if token == _BORDER:
            node.children = {}
        else:
            node.children = {token: _Node(node.position + 1)}
            node.best = token

    def _longest(self, tokens: list[int], most: int, least: int) -> tuple[int, Guess] | None:
        """The length of the longest suffix of `tokens`, of `most` to `least`, that something followed, and what did."""
        for length in range(most, least - 1, -1):
            guess = self._after(tokens, len(tokens) - length)
            if guess is not None:
                return length, guess
        return None

    def _after(self, tokens: list[int], start: int) -> Guess | None:
        """The most frequent token after tokens[start:], if any."""
        node = self._root
        for index in range(start, len(tokens)):
            if node.children is None:
                return self._once(node.position, tokens[index:])
            child = node.children.get(tokens[index])
            if child is None:
                return None
            node = child
        if node.children is None:
            return self._once(node.position, [])
        if node.best is None:
            return None
        # The end of the growing sequence has no continuation yet: it does not count among the context's occurrences.
        is_at_end = node.position == len(self._tokens)
        return Guess(node.best, node.children[node.best].visits / (node.visits - is_at_end))

    def _once(self, position: int, rest: list[int]) -> Guess | None:
        """The token after `rest`, if `rest` stands at `position` and its sequence does not end with it."""
        end = position + len(rest)
        if end >= len(self._tokens) or self._tokens[end] == _BORDER or self._tokens[position:end] != rest:
            return None
        return Guess(self._tokens[end], 1.0)
