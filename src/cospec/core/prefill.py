"""Prompts in pieces: what a round feeds of them, so that no text waits long while others' prompts are read."""

from .counts import Average

# A round reads so many seconds of prompts with a model, as far as is known how long that takes it.
SECONDS = 0.2
# Whatever that comes to: fewer tokens would not make up for reading all weights once more, more would take the memory.
FEWEST, MOST = 256, 8192
RATE = 0.3


class Pieces:
    """How many tokens of prompts one runner is fed in a round."""

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
        """A call of so many tokens, most of them prompts', took so long; a short one tells nothing of long ones."""
        if num_tokens >= FEWEST // 2:
            self._seconds_a_token.add(seconds / num_tokens)
