"""The lookup's index: what it drafts, compared with counting by brute force, and what it costs."""

import random
import statistics
import time
from collections import Counter

import pytest

from cospec.runner.suffixes import Guess, SuffixIndex


def tokens_of(guesses: list[Guess]) -> list[int]:
    return [guess.token for guess in guesses]


def index_of(*texts: list[int], growing: list[int], depth: int = 16, factor: float = 2.0) -> SuffixIndex:
    index = SuffixIndex(depth=depth, factor=factor)
    for text in texts:
        index.add_sequence(text)
    index.extend(growing)
    return index


def brute_longest(
    texts: list[list[int]], growing: list[int], context: list[int], most: int, least: int
) -> tuple[int, Guess] | None:
    """By looking at every place of every text."""
    for length in range(min(most, len(context)), least - 1, -1):
        following: list[int | None] = []
        for text in [*texts, growing]:
            for end in range(length, len(text) + (text is not growing)):
                if text[end - length : end] == context[len(context) - length :]:
                    following.append(text[end] if end < len(text) else None)
        counts = Counter(token for token in following if token is not None)
        if counts:
            latest = {token: place for place, token in enumerate(following)}
            token = max(counts, key=lambda token: (counts[token], latest[token]))
            return length, Guess(token, counts[token] / len(following))
    return None


def brute_draft(texts: list[list[int]], growing: list[int], context: list[int], limit: int, depth: int) -> list[Guess]:
    guesses: list[Guess] = []
    score, least, most = 1.0, 1, depth
    while found := brute_longest(texts, growing, [*context, *tokens_of(guesses)], most, least):
        match, guess = found
        least = least if guesses else match
        score *= guess.probability
        if score < 0.1 or len(guesses) >= min(limit, 2 * least):
            break
        guesses.append(guess)
        most = min(match + 1, depth)
    return guesses


def test_a_repeated_text_drafts_its_continuation() -> None:
    text = [5, 6, 7, 8, 9, 10, 11, 12, 5, 6, 7]
    assert index_of(growing=text).draft(text, 4) == [Guess(token, 1.0) for token in (8, 9, 10, 11)]


def test_where_nothing_is_known_nothing_is_drafted() -> None:
    assert SuffixIndex().draft([1, 2], 4) == []
    assert index_of(growing=[1, 2, 3]).draft([1, 2, 3], 4) == []
    assert index_of(growing=[1, 2, 3]).draft([], 4) == []
    assert index_of(growing=[1, 2, 3]).draft([9], 4) == []


def test_a_past_text_is_drafted_from() -> None:
    index = index_of([1, 2, 3, 4, 5, 6], growing=[9, 2, 3])
    assert tokens_of(index.draft([9, 2, 3], 8)) == [4, 5, 6]


def test_no_match_crosses_a_border() -> None:
    index = index_of([1, 2], [3, 4], growing=[2])
    assert index.draft([2], 4) == []
    assert index.draft([1, 2], 4) == []
    assert index.draft([2, 3], 4) == [Guess(4, 1.0)]


def test_a_text_that_ended_counts_against_what_followed_elsewhere() -> None:
    assert index_of([1, 2], [1, 2, 3], growing=[]).draft([1, 2], 4) == [Guess(3, 0.5)]


def test_the_longest_context_decides() -> None:
    index = index_of([1, 2, 3], [9, 2, 4], [8, 2, 4], growing=[])
    assert index.draft([1, 2], 1) == [Guess(3, 1.0)]
    assert tokens_of(index.draft([7, 2], 1)) == [4]


def test_the_most_frequent_token_is_drafted_and_of_equals_the_latest() -> None:
    assert index_of([1, 2], [1, 2], [1, 3], growing=[]).draft([1], 1) == [Guess(2, 2 / 3)]
    assert index_of([1, 2], [1, 3], growing=[]).draft([1], 1) == [Guess(3, 1 / 2)]
    assert index_of([1, 3], [1, 2], [1, 2], [1, 3], growing=[]).draft([1], 1) == [Guess(3, 1 / 2)]


def test_a_draft_ends_at_the_limit_at_the_factor_and_at_the_floor() -> None:
    text = [*range(20), *range(3)]
    assert tokens_of(index_of(growing=text).draft(text, 2)) == [3, 4]
    assert index_of(growing=text).draft(text, 0) == []
    assert tokens_of(index_of(growing=text, factor=1).draft(text, 20)) == [3, 4, 5]
    index = SuffixIndex(floor=0.6)
    index.add_sequence([1, 2, 3])
    index.add_sequence([1, 2, 4])
    assert index.draft([1, 2], 4) == []


def test_a_match_longer_than_the_depth_goes_on() -> None:
    text = [*range(40), *range(10)]
    assert tokens_of(index_of(growing=text, depth=4).draft(text, 8)) == list(range(10, 18))


def test_a_loop_is_drafted_past_its_own_end() -> None:
    text = [1, 2, 3, 1, 2, 3, 1, 2, 3]
    assert tokens_of(index_of(growing=text).draft(text, 8)) == [1, 2, 3, 1, 2, 3, 1, 2]


def test_sequences_may_come_in_chunks() -> None:
    rng = random.Random(0)
    text = rng.choices(range(3), k=200)
    whole, chunks = index_of(growing=text), SuffixIndex()
    for token in text:
        chunks.draft(text, 4)
        chunks.extend([token])
    assert all(whole.draft(text[:end], 8) == chunks.draft(text[:end], 8) for end in range(200))


@pytest.mark.parametrize("seed", range(40))
def test_drafts_are_those_of_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    num_symbols, depth = rng.choice([2, 3, 5]), rng.choice([1, 2, 4, 16])
    texts = [rng.choices(range(num_symbols), k=rng.randrange(12)) for _ in range(rng.randrange(4))]
    growing = rng.choices(range(num_symbols), k=rng.randrange(30))
    index = index_of(*texts, growing=growing, depth=depth)
    contexts = [growing, *(rng.choices(range(num_symbols), k=rng.randrange(1, 8)) for _ in range(20))]
    for context in contexts:
        limit = rng.randrange(1, 9)
        assert index.draft(context, limit) == brute_draft(texts, growing, context, limit, depth)


@pytest.mark.parametrize("kind", ["random", "repeated", "loop"])
def test_a_token_costs_microseconds(kind: str) -> None:
    rng = random.Random(0)
    phrase = rng.choices(range(4096), k=200)
    text = {"random": rng.choices(range(200), k=4000), "repeated": phrase * 20, "loop": [1] * 4000}[kind]
    index = SuffixIndex()
    extending, drafting = [], []
    for end, token in enumerate(text, start=1):
        started = time.perf_counter()
        index.extend([token])
        extended = time.perf_counter()
        index.draft(text[max(0, end - 16) : end], 8)
        extending.append(extended - started)
        drafting.append(time.perf_counter() - extended)
    assert statistics.median(extending) < 200e-6
    assert statistics.median(drafting) < 8 * 200e-6
