"""Tokens to text: characters across token borders, stop strings held back."""

from cospec.text import TextStream

from .toys import Letters


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
