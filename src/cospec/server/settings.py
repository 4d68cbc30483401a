"""How a server behaves."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """model: the name that clients give. api_keys: empty for none. max_sequences: texts decoded at a time.

    max_waiting: texts that wait for one of these places before more are answered with 429. context: the most tokens
    of prompt and answer together, None for the members' own. max_body: bytes of a request. origins: what other sites'
    pages may call the server, none by default.
    """

    model: str
    api_keys: tuple[str, ...] = ()
    max_sequences: int = 32
    max_waiting: int = 256
    context: int | None = None
    max_body: int = 4 * 2**20
    origins: tuple[str, ...] = ()
