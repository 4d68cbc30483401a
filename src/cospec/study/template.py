"""The criteria as a commented file to start from; what it says is what holds without one."""

from pathlib import Path

from ..errors import InvalidPilot

TEMPLATE = Path(__file__).parent / "criteria.yaml"


def write_criteria(path: Path) -> None:
    """Raises InvalidPilot for a file that is there already, or cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.read_text(encoding="utf-8"))
    except FileExistsError:
        raise InvalidPilot(f"{path} is there already; name another file, or remove it") from None
    except OSError as error:
        raise InvalidPilot(f"{path} cannot be written: {error.strerror or error}") from None
