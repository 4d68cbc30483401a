"""Commented files for users to start from."""

from pathlib import Path

from ..errors import InvalidPilot


def copy_template(template: Path, path: Path) -> None:
    """Write a file that is not there yet. Raises InvalidPilot for one that is, or that cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template.read_text(encoding="utf-8"))
    except FileExistsError:
        raise InvalidPilot(f"{path} is there already; name another file, or remove it") from None
    except OSError as error:
        raise InvalidPilot(f"{path} cannot be written: {error.strerror or error}") from None
