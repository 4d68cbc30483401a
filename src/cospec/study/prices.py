"""What machines and electricity cost."""

from dataclasses import dataclass
from math import inf
from pathlib import Path

from ..errors import InvalidPilot
from ..inputs import read_yaml, validated, without_nulls
from .templates import copy_template

# The commented file to start from; as it is, it holds no prices.
TEMPLATE = Path(__file__).parent / "prices.yaml"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that the ensemble runs on. per_hour: the price of one. count: how many of them.

    Raises InvalidPilot for a value out of its range.
    """

    name: str
    per_hour: float
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.per_hour < inf or self.count < 1:
            raise InvalidPilot(
                f"prices: machine {self.name!r} needs a finite per_hour of at least 0 and a count of at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class Prices:
    """machines: all that one copy of the ensemble runs on; none means no prices. electricity_per_kwh: where it is paid
    for apart from the machines. tokens_per_month: the volume that a saving is stated for.

    Raises InvalidPilot for a value out of its range.
    """

    currency: str = "USD"
    machines: tuple[Machine, ...] = ()
    electricity_per_kwh: float | None = None
    tokens_per_month: float | None = None

    def __post_init__(self) -> None:
        for name in ("electricity_per_kwh", "tokens_per_month"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < inf:
                raise InvalidPilot(f"prices: {name} must be a finite number of at least 0, got {value:g}")

    @property
    def per_hour(self) -> float | None:
        """Of all machines together; None without prices."""
        return sum(each.per_hour * each.count for each in self.machines) if self.machines else None

    @classmethod
    def load(cls, path: Path) -> "Prices":
        """From a YAML file. Raises InvalidPilot or UnknownName, with the file and the key at fault."""
        return validated(cls, without_nulls(read_yaml(path, InvalidPilot), cls), str(path), InvalidPilot)


def write_prices(path: Path) -> None:
    """Write the template. Raises InvalidPilot for a file that exists, or cannot be written."""
    copy_template(TEMPLATE, path)
