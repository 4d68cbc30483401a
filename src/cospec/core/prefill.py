"""Chunked prefill: how many prompt tokens a round feeds, so that no sequence waits long while others' prompts are
read."""

from .counts import Average

# Target seconds of prompt tokens in one round and runner, by the measured seconds a token.
SECONDS = 0.2
# Clamp prompt chunks to so many tokens: a smaller chunk reads all weights for too little work, a larger one takes the
# memory.
FEWEST, MOST = 256, 8192
RATE = 0.3


class PrefillBudget:
    """How many prompt tokens one runner is fed in a round."""

    def __init__(self) -> None:
        self._seconds_a_token = Average(RATE)
        self._left = FEWEST

    def begin(self) -> None:
        """A round begins."""
        pace = self._seconds_a_token
        self._left = min(MOST, max(FEWEST, int(SECONDS / pace.value))) if pace.count and pace.value > 0 else FEWEST

    def take(self, num_tokens: int) -> int:
        """How many of a prompt's tokens may be fed in this round."""
        taken = min(num_tokens, self._left)
        self._left -= taken
        return taken

    def learn(self, num_tokens: int, seconds: float) -> None:
        """A forward pass of so many tokens, most of them prompts', took so long. Short passes are no measure of long
        ones."""
        if num_tokens >= FEWEST // 2:
            self._seconds_a_token.add(seconds / num_tokens)
