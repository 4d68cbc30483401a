"""How a server behaves."""

from dataclasses import dataclass

from ..errors import CospecError


class InvalidSettings(CospecError):
    """A server's setting out of its range."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """model: the name that clients give. api_keys: empty for none. max_sequences: texts decoded at a time.

    max_waiting: texts that wait for one of these places before more are answered with 429. context: the most tokens
    of prompt and answer together, None for the members' own. max_body: bytes of a request. body_seconds: how long one
    may take to come. origins: what other sites' pages may call the server, none by default. calls_at_once: members
    called side by side.

    Raises InvalidSettings, naming the setting, what was given and what is allowed.
    """

    model: str
    api_keys: tuple[str, ...] = ()
    max_sequences: int = 32
    max_waiting: int = 256
    context: int | None = None
    max_body: int = 4 * 2**20
    body_seconds: float = 60.0
    origins: tuple[str, ...] = ()
    calls_at_once: int = 1

    def __post_init__(self) -> None:
        rules = [
            ("model", bool(self.model), "a name"),
            ("max_sequences", self.max_sequences >= 1, "at least 1"),
            ("max_waiting", self.max_waiting >= 0, "at least 0"),
            ("context", self.context is None or self.context >= 2, "at least 2, a token of prompt and one of answer"),
            ("max_body", self.max_body >= 1, "at least 1"),
            ("calls_at_once", self.calls_at_once >= 1, "at least 1"),
            ("body_seconds", self.body_seconds > 0, "above 0"),
        ]
        for name, is_allowed, rule in rules:
            if not is_allowed:
                raise InvalidSettings(f"{name} must be {rule}, got {getattr(self, name)!r}")
        if not all(key.strip() for key in self.api_keys):
            raise InvalidSettings("a key is empty, which would let everyone in; give none at all for that")
