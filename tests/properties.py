"""How property tests are tried: by the same examples on each run, so that none fails by luck; by `make fuzz` with new
ones, and more of them."""

from hypothesis import settings

SAME, FUZZ = "same", "fuzz"
MORE = 10


def register() -> None:
    settings.register_profile(SAME, derandomize=True, print_blob=True)
    settings.register_profile(FUZZ, max_examples=MORE * settings.default.max_examples, print_blob=True)
    settings.load_profile(SAME)


def examples(count: int) -> int:
    """So many of a test that needs another number than the default; more of them by `make fuzz`."""
    return count * MORE if settings.get_current_profile_name() == FUZZ else count
