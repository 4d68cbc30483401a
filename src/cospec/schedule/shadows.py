"""Hearing idle drafters: one is fed now and then for what its rows say alone (a shadow), so that its acceptance is
known before it drafts, and stays so."""

from collections import Counter
from collections.abc import Iterable

from ..core.sheet import Sheet
from .beliefs import Beliefs

# The part of the decoding time that may go to shadows: while a drafter of several sequences is new, so that it is known
# before all of them wait for it, and later. Tokens from one shadow of a sequence to the next, once all are known.
SHARE_OF_NEW, SHARE, TOKENS_BETWEEN = 0.1, 0.01, 16
# Where no drafter could be heard, such as where there is none, none is looked for in so many rounds.
ROUNDS_BETWEEN_LOOKS = 16


class Shadows:
    """Which drafter is heard next, beside which sequence: the one that was heard the least, where that costs the least.

    num_heard: shadows of each drafter so far, by lane.
    """

    def __init__(self, beliefs: Beliefs) -> None:
        self.num_heard: Counter[int] = Counter()
        self._beliefs = beliefs
        self._last: dict[Sheet, int] = {}
        # Seconds that may go to shadows, the least that one cost when it was asked last, and the one that is next.
        self._saved = self._price = 0.0
        self._next: tuple[Sheet, int] | None = None
        # Rounds for which nobody is looked for, since nobody could be heard.
        self._pause = 0

    def of(self, sheet: Sheet) -> tuple[int, ...]:
        """The drafter to be heard beside this sequence in this round, if one is."""
        if self._next is None or self._next[0] is not sheet:
            return ()
        drafter = self._next[1]
        return () if sheet.lanes[drafter].has(sheet.position) else (drafter,)

    def was_heard_at(self, sheet: Sheet, position: int) -> bool:
        """Whether the last shadow beside this sequence was at this position."""
        return self._last.get(sheet) == position

    def on_shadow(self, sheet: Sheet, drafter: int) -> None:
        """The drafter was heard."""
        self._last[sheet] = sheet.position
        self._saved, self._price, self._next = 0.0, 0.0, None
        self.num_heard[drafter] += 1

    def on_round(self, sheets: Iterable[Sheet], seconds: float, *, has_new: bool) -> None:
        """A round took so long: choose whom to hear next. has_new: whether a drafter's acceptance is not known yet, and
        several sequences would wait for it."""
        self._saved += seconds * (SHARE_OF_NEW if has_new else SHARE)
        self._next = None
        if self._saved < self._price:
            return
        if self._pause and not has_new:
            self._pause -= 1
            return
        between = 1 if has_new else TOKENS_BETWEEN
        possible = [
            (self.num_heard[drafter], self._seconds(sheet, drafter), index, sheet, drafter)
            for index, sheet in enumerate(sheets)
            if sheet.position >= self._last.get(sheet, -between) + between
            for drafter in sheet.drafters
            if self._is_priced(drafter)
        ]
        self._pause = 0 if possible else ROUNDS_BETWEEN_LOOKS
        if possible:
            _, self._price, _, sheet, drafter = min(possible)
            if self._price <= self._saved:
                self._next = sheet, drafter

    def on_end(self, sheet: Sheet) -> None:
        """The sequence is over."""
        self._last.pop(sheet, None)
        if self._next is not None and self._next[0] is sheet:
            self._next = None

    def _is_priced(self, drafter: int) -> bool:
        """Whether a pass of it was measured: what one costs is for a trial to find out."""
        return self._beliefs.costs.is_known(self._beliefs.server(drafter))

    def _seconds(self, sheet: Sheet, drafter: int) -> float:
        num_tokens = sheet.frontier - sheet.lanes[drafter].seen
        return self._beliefs.costs.seconds(self._beliefs.server(drafter), num_tokens, is_hoped=True)
