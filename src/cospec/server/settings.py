"""Settings of a server."""

from dataclasses import dataclass

from ..errors import CospecError
from ..names import MAX_SEQUENCES

LOG_LEVELS = ("critical", "error", "warning", "info", "debug")
LOG_FORMATS = ("text", "json")


class InvalidSettings(CospecError):
    """A server's setting out of its range."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Names, keys and limits of one server.

    model: the name that clients use. api_keys: keys that are accepted; empty lets everyone in. max_sequences: sequences
    decoded at a time. max_waiting: sequences that may wait for a place; a request beyond them gets status 429. context:
    most tokens of prompt and answer together; None for the members' own limit. reproducible: whether a seed is to have
    one text, whatever else is decoded: ensembles must then have invariant numerics and coupled verification. max_body:
    largest request, in bytes. body_seconds: time limit for the arrival of a request's body. origins: web origins whose
    pages may call the server; none by default. calls_at_once: members whose forward passes may run side by side.
    log_level: critical, error, warning, info (with the access log) or debug. log_format: text, or json for an object a
    line.

    Raises InvalidSettings, naming the setting, its value and what is allowed.
    """

    model: str
    api_keys: tuple[str, ...] = ()
    max_sequences: int = MAX_SEQUENCES
    max_waiting: int = 256
    context: int | None = None
    reproducible: bool = False
    max_body: int = 4 * 2**20
    body_seconds: float = 60.0
    origins: tuple[str, ...] = ()
    calls_at_once: int = 1
    log_level: str = "warning"
    log_format: str = "text"

    def __post_init__(self) -> None:
        rules = [
            ("model", bool(self.model), "a name"),
            ("max_sequences", self.max_sequences >= 1, "at least 1"),
            ("max_waiting", self.max_waiting >= 0, "at least 0"),
            ("context", self.context is None or self.context >= 2, "at least 2, a token of prompt and one of answer"),
            ("max_body", self.max_body >= 1, "at least 1"),
            ("calls_at_once", self.calls_at_once >= 1, "at least 1"),
            ("body_seconds", self.body_seconds > 0, "above 0"),
            ("log_level", self.log_level in LOG_LEVELS, f"one of {', '.join(LOG_LEVELS)}"),
            ("log_format", self.log_format in LOG_FORMATS, f"one of {', '.join(LOG_FORMATS)}"),
        ]
        for name, is_allowed, rule in rules:
            if not is_allowed:
                raise InvalidSettings(f"{name} must be {rule}, got {getattr(self, name)!r}")
        if not all(key.strip() for key in self.api_keys):
            raise InvalidSettings("a key is empty, which would let everyone in; give none at all for that")
