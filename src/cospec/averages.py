"""Averages that forget."""

from dataclasses import dataclass


@dataclass
class Average:
    """Plain at first, then exponential: a new number counts `rate` at least. count: of the numbers so far."""

    rate: float
    value: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += (value - self.value) * max(self.rate, 1 / self.count)
