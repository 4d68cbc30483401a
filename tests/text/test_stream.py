"""Tokens to text: characters across token borders, stop strings held back."""

import random
import time

from hypothesis import given
from hypothesis import strategies as st

from cospec.core.text import ByteDecoder, TextStream

from ..toys import Letters


def pushed(tokens, stops=()):
    stream = TextStream(Letters().decode, stops)
    pieces = []
    for token in tokens:
        before = len(stream.text)
        stream.push(token)
        pieces.append(stream.text[before:])
    stream.close()
    return stream, pieces


def test_half_a_character_waits_for_its_other_half():
    stream, pieces = pushed([1, 8, 9, 2])
    assert pieces == ["a", "", "\u00e9", "b"]
    assert stream.text == "a\u00e9b"


def test_a_text_cut_within_a_character_ends_with_the_replacement_character():
    stream, _ = pushed([1, 8])
    assert stream.text == "a\ufffd"


# Bytes of whole characters, of parts, and of what looks like a part: overlong, a surrogate, beyond the last one.
WHOLE = [letter.encode() for letter in "aé☺😀"]
PARTS = [*WHOLE, b"\xe2", b"\x98\x80", b"\xed", b"\xa1", b"\xf4\x90", b"\xc0", b"\xf0"]


@given(prompt=st.lists(st.sampled_from(PARTS), max_size=3), answer=st.lists(st.sampled_from(PARTS), max_size=6))
def test_bytes_of_any_kind_are_released_as_soon_as_they_are_certain(prompt, answer):
    decoder = ByteDecoder(PARTS.__getitem__, [PARTS.index(part) for part in prompt])
    said, released = b"".join(prompt), ""
    # Of a character that the prompt begins nothing was said yet.
    before = said.decode("utf-8", "replace")
    begun = before.removesuffix("\ufffd")
    for part in answer:
        said += part
        released += decoder.push(PARTS.index(part))
        whole = said.decode("utf-8", "replace")
        assert {before + released, begun + released} & {whole, whole.removesuffix("\ufffd")}
    assert said.decode("utf-8", "replace") in (before + released + (rest := decoder.close()), begun + released + rest)


def test_what_may_become_a_stop_string_is_held_back_and_released_if_it_does_not():
    stream, pieces = pushed([1, 2, 3, 1, 2], stops=["abx"])
    assert pieces == ["", "", "abc", "", ""]
    assert not stream.is_stopped
    assert stream.text == "abcab"


def test_the_stop_string_that_begins_first_cuts_the_text():
    stream, _ = pushed([10, 1, 2, 3], stops=["bc", "xa"])
    assert stream.is_stopped
    assert stream.text == ""


def test_a_stop_string_within_one_token_cuts_it():
    stream, _ = pushed([1, 6], stops=["TO"])
    assert stream.text == "aS"


def test_stop_strings_are_found_and_held_back_as_one_reads_them_in_the_whole_text():
    draws = random.Random(0)
    for _ in range(300):
        stops = ["".join(draws.choices("ab", k=draws.randrange(1, 6))) for _ in range(draws.randrange(1, 4))]
        stream, whole = TextStream(Letters().decode, stops), ""
        while len(whole) < 20 and not stream.is_stopped:
            token = draws.choice([1, 2, 5])
            whole += Letters().decode([token])
            stream.push(token)
            starts = [whole.find(stop) for stop in stops if stop in whole]
            held = max(length for stop in stops for length in range(len(stop)) if whole.endswith(stop[:length]))
            assert stream.is_stopped == bool(starts)
            assert stream.text == (whole[: min(starts)] if starts else whole[: len(whole) - held])


def test_a_stop_string_that_came_before_it_may_stop_is_left_alone():
    stream = TextStream(Letters().decode, ["ab", "x" * 9])
    for token, may_stop in ((1, False), (2, False), (3, True)):
        stream.push(token, may_stop=may_stop)
    assert not stream.is_stopped
    assert stream.text == "abc"


def test_many_long_stop_strings_hold_up_no_text():
    started = time.process_time()
    stream, _ = pushed([1, 1, 1, 2] * 200, stops=["a" * 999 + letter for letter in "bcxy"] * 16)
    assert not stream.is_stopped
    assert time.process_time() - started < 2
