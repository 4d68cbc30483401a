"""Values of every type, for settings and arguments that must take them or say what is wrong."""

import numpy as np
import torch
from hypothesis import strategies as st

from cospec import CospecError, Member, Mixture, SamplingParams

# Words that mean something in one setting or another, so that values come near to what is right.
WORDS = (
    *("auto", "each", "lookup", "lookup+past", "demo:math", "demo:drafter", "fixed", "mixture", "alternate", "plain"),
    *(
        "block",
        "coupled",
        "cpu",
        "cuda:7",
        "float32",
        "int3",
        "weights",
        "type",
        "model",
        "prompt",
        "a{promt}b",
        "11",
        "",
    ),
)
TEXTS = st.sampled_from(WORDS) | st.text(max_size=8)
NUMBERS = (
    st.integers(-3, 3)
    | st.integers()
    | st.floats()
    | st.sampled_from([0.5, 1e-300, 10**30, 10**400, True, False, -0.0])
)
JSON = st.recursive(
    st.none() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


class Lone:
    """An array of one number, as other libraries have it: it has the method of a list, and no entries."""

    def __iter__(self):
        raise TypeError("iteration over a 0-d array")


ARRAYS = st.sampled_from(
    [
        *(
            torch.tensor(3),
            torch.tensor([1, 2]),
            torch.tensor([[1, 2], [0, 1]]),
            torch.tensor([0.5]),
            torch.tensor(True),
            Lone(),
        ),
        *(
            np.array(3),
            np.array([1, 2]),
            np.array([[1.5]]),
            np.array(["a"]),
            np.int64(2),
            np.float32(0.5),
            np.bool_(True),
        ),
    ]
)
SURROGATES = st.sampled_from(["\ud800", "a\udfff"])
OBJECTS = st.sampled_from(
    [
        *(b"bytes", bytearray(b"ab"), {1, 2}, frozenset(), range(3), object(), object, int, 1j, ..., print),
        *(SamplingParams(), Mixture([1.0]), Member(model="demo:math"), CospecError("a"), "a" * 5000, "~/x", "\0"),
    ]
)
# Too long for Python to write down.
HUGE = st.builds(lambda: 10**5000)
ANYTHING = st.recursive(
    JSON | ARRAYS | SURROGATES | OBJECTS | HUGE,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(TEXTS, inner, max_size=2)
    ),
    max_leaves=4,
)


def message_of(build):
    """The message of what is refused; nothing but a CospecError may come."""
    try:
        build()
    except CospecError as error:
        return str(error)
    return None
