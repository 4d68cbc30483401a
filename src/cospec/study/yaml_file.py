"""A YAML file of settings."""

from pathlib import Path
from typing import Any

import yaml

from ..errors import InvalidPilot


def load_yaml(path: Path) -> Any:
    """What the file holds; nothing stands for no settings. Raises InvalidPilot for a file that cannot be read."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidPilot(f"{str(path)!r} cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise InvalidPilot(f"{path} is not YAML: {error}") from None
    return {} if value is None else value
