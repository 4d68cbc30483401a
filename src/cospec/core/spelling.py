"""Single tokens as texts and as bytes, as logs of probabilities name them."""

from collections.abc import Iterable, Mapping

from ..runner.protocol import Tokenizer


class TokenSpeller:
    """Spells the tokens of a tokenizer; `<id>` where there is none."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._spelled: dict[int, str] = {}
        self._special: Mapping[int, str] = getattr(tokenizer, "special", {})

    @property
    def has_tokenizer(self) -> bool:
        return self._tokenizer is not None

    def spell(self, token: int) -> str:
        r"""One token as text, special ones as their vocabulary writes them; bytes that are no whole character as
        `bytes:\xe2`."""
        if token not in self._spelled:
            raw = self.bytes_of(token)
            try:
                self._spelled[token] = self._special.get(token) or raw.decode()
            except UnicodeDecodeError:
                self._spelled[token] = _as_bytes(raw)
        return self._spelled[token]

    def spell_apart(self, tokens: Iterable[int]) -> list[str]:
        """The tokens as texts that all differ: of several with one spelling, such as a letter and the byte that it is,
        the first one has it, and the others are written as bytes or by their id."""
        spelled: dict[str, None] = {}
        for token in tokens:
            raw = self.bytes_of(token)
            forms = (self.spell(token), _as_bytes(raw), f"token_id:{token}")
            spelled[next(form for form in forms if form not in spelled)] = None
        return [*spelled]

    def bytes_of(self, token: int) -> bytes:
        """The UTF-8 bytes that a token adds to a text, none for a special one."""
        token_bytes = getattr(self._tokenizer, "token_bytes", None)
        if token_bytes is not None:
            return bytes(token_bytes(token))
        return str(self._tokenizer.decode([token])).encode() if self._tokenizer else f"<{token}>".encode()


def _as_bytes(raw: bytes) -> str:
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
