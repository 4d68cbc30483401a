"""The law of text for every tokenizer: a text is the join of its tokens' bytes, and special tokens have none."""

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cospec.core.text import TextStream, text_decoder
from cospec.rendering import render
from cospec.runner.hf.tokenizer import HfTokenizer

from ..properties import examples
from .kinds import KINDS, tokenizer
from .tokenizers import CHAT

some = settings(max_examples=examples(15), deadline=None)
kinds = pytest.mark.parametrize("kind", KINDS)
TEXTS = st.text(st.sampled_from("the catHello wordé☺\n<s>{}|▁ 1"), max_size=30)


@cache
def own(kind: str) -> HfTokenizer:
    return HfTokenizer(tokenizer(kind))


def ids_of(kind: str, **sizes: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, len(tokenizer(kind)) - 1), **sizes)


def streamed(source: HfTokenizer, prompt: Sequence[int], answer: Sequence[int]) -> tuple[str, list[str]]:
    """The answer's text, and what each token released."""
    stream = TextStream(text_decoder(source, prompt))
    pieces = []
    for token in answer:
        before = len(stream.text)
        stream.push(token)
        pieces.append(stream.text[before:])
    stream.close()
    return stream.text, pieces


@kinds
@some
@given(data=st.data())
def test_the_text_is_that_of_the_tokenizer_itself_special_tokens_left_out(kind, data):
    source, ids = own(kind), data.draw(ids_of(kind, max_size=12))
    theirs = tokenizer(kind).decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    # Where no word begins or ends they leave the mark of what stands within one.
    if kind.startswith("word pieces"):
        theirs = theirs.removeprefix("##")
    elif kind == "half words in Python":
        theirs = theirs.removesuffix("@@")
    # Of what is no UTF-8 tokenizers make replacement characters in ways of their own, or nothing.
    if "\ufffd" not in theirs + source.decode(ids):
        assert source.decode(ids) == theirs


@kinds
@some
@given(data=st.data())
def test_bytes_joined_are_the_text(kind, data):
    source, ids = own(kind), data.draw(ids_of(kind, max_size=12))
    raw = b"".join(map(source.token_bytes, ids))
    text = raw.decode("utf-8", "replace")
    text = text.removesuffix(" ") if source.drops_last_space else text
    assert source.decode(ids) == (text.removeprefix(" ") if source.drops_space else text)


@kinds
@some
@given(data=st.data())
def test_prompt_and_answer_are_the_text_of_both_wherever_they_are_cut(kind, data):
    source, ids = own(kind), data.draw(ids_of(kind, max_size=12))
    cut = data.draw(st.integers(0, len(ids)))
    prompt, answer = ids[:cut], ids[cut:]
    before, _ = streamed(source, (), prompt)
    text, _ = streamed(source, prompt, answer)
    whole = source.decode(ids)
    # A character that the prompt begins belongs to the answer, if that completes it.
    assert whole in (before + text, before.removesuffix("\ufffd") + text)


@kinds
@some
@given(data=st.data())
def test_text_is_released_as_soon_as_it_is_certain(kind, data):
    source, ids = own(kind), data.draw(ids_of(kind, max_size=12))
    pieces = streamed(source, (), ids)[1]
    for count in range(len(ids) + 1):
        certain = source.decode(ids[:count])
        released = "".join(pieces[:count])
        # What may still become another character is one replacement character at the end.
        assert released in (certain, certain.removesuffix("\ufffd"))


@kinds
@some
@given(text=TEXTS)
def test_a_prompt_has_its_special_tokens_once_and_ends_with_none(kind, text):
    source, theirs = own(kind), tokenizer(kind)
    ids = source.encode(text)
    bare = source.encode_bare(text)
    assert ids == [*source.in_front, *bare]
    whole = theirs.encode(text)
    assert whole == ids or whole == [*ids, theirs.convert_tokens_to_ids("</s>")]


@kinds
@some
@given(
    before=st.sampled_from(["", "Answer badly. ", "a"]), after=st.sampled_from(["", " badly:", "\n", "b"]), text=TEXTS
)
def test_a_members_own_prompt_has_no_second_begin_in_it(kind, before, after, text):
    source, theirs = own(kind), tokenizer(kind)
    for mark in (*CHAT, "<s>", "</s>", "<unk>"):
        text = text.replace(mark, "")
    ids = source.encode(text)
    template = f"{before}{{prompt}}{after}{{prompt}}"
    for prompt in (text, ids):
        fed = render(template, prompt, ids, source)
        assert fed[: len(source.in_front)] == [*source.in_front]
        assert theirs.bos_token_id not in fed[len(source.in_front) :]
        if not source.in_front:
            assert theirs.bos_token_id not in fed
        assert theirs.eos_token_id not in fed
        assert "{prompt}" not in source.decode(fed)


@kinds
def test_a_stop_string_that_spells_a_special_token_ends_the_text_there(kind):
    source = own(kind)
    (end,) = source.encode_bare("<|im_end|>")[-1:]
    words = source.encode_part(" the cat")
    stream = TextStream(text_decoder(source, source.encode("the")), ["<|im_end|>"], source.special)
    for token in words:
        assert not stream.push(token)
    assert stream.push(end)
    before = source.decode(source.encode("the"))
    assert stream.text == source.decode([*source.encode("the"), *words]).removeprefix(before)


@kinds
def test_a_stop_string_across_a_special_token_is_found_with_it_and_without_it(kind):
    source = own(kind)
    mark = source.encode_bare("<|im_start|>")[-1]
    prompt, the, cat = source.encode("a"), source.encode_part("the"), source.encode_part("cat")
    # Some put a space between any two words.
    before = source.decode(prompt)
    first = source.decode([*prompt, *the]).removeprefix(before)
    second = source.decode([*prompt, *the, *cat]).removeprefix(before + first)
    for stop, left in ((f"{first[-1]}<|im_start|>{second[:2]}", 1), (f"{first[-2:]}{second}", 2)):
        stream = TextStream(text_decoder(source, prompt), [stop], source.special)
        pushed = [stream.push(token) for token in (*the, mark, *cat)]
        assert pushed[-1]
        assert stream.text == first[:-left]


@kinds
def test_no_spelling_is_guessed_from_an_entrys_letters(kind):
    """Each entry adds to a text what the tokenizer says behind another one."""
    source, theirs = own(kind), tokenizer(kind)
    (anchor,) = source.encode_bare("\n1")[-1:]

    def said(*ids: int) -> str:
        return theirs.decode([*ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)

    start = said(anchor)
    for token in range(len(theirs)):
        added = said(anchor, token).removeprefix(start)
        if source.drops_last_space and token not in source.special:
            # The space that the anchor ends with stands between, and that of a word's end before another one.
            added = said(anchor, token, anchor).removeprefix(f"{start} ").removesuffix(start)
        own_text = source.token_bytes(token).decode("utf-8", "replace")
        if "\ufffd" not in added + own_text:
            assert own_text == added, theirs.convert_ids_to_tokens(token)


@kinds
def test_work_grows_with_the_number_of_tokens_whatever_they_are(kind):
    source = own(kind)
    calls: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        calls.append(len(ids))
        return source.decode(ids)

    tokens = range(0, len(tokenizer(kind)), 7)
    for token in tokens:
        stream = TextStream(decode)
        for _ in range(200):
            stream.push(token)
        stream.close()
        assert stream.text.lstrip() == source.decode([token] * 200).lstrip()
    assert sum(calls) <= 20 * 200 * len(tokens)
