"""A transformers tokenizer behind the Tokenizer protocol."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


class HfTokenizer:
    """Text to ids, with the special tokens its model wants in front, and back, without any."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        end = tokenizer.eos_token_id
        self.end_ids: tuple[int, ...] = () if end is None else (end,)
        by_id = {index: entry for entry, index in tokenizer.get_vocab().items()}
        self._entries = [by_id.get(index, "") for index in range(max(by_id) + 1)]

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def entries(self) -> Sequence[str]:
        return self._entries
