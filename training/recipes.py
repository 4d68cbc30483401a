"""Each bundled model's recipe: its shape, training data, number of tokens, and the model that it starts from."""

from dataclasses import dataclass

CONTEXT = 1024


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Sequences sampled from the even mixture of `teachers`, which continue excerpts of a corpus.

    share: of a distillation's sequences.
    """

    teachers: tuple[str, ...]
    corpus: str
    share: float

    def __str__(self) -> str:
        *most, last = [f"`{teacher}`" for teacher in self.teachers]
        return f"{self.share:.0%} by {', '.join(most)}{' and ' if most else ''}{last} on {self.corpus}"


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Training on sequences of the mixes, `tokens` in all, which are read `readings` times.

    target: the model whose distribution is learned; None for the mixture that the sequence was sampled from.
    """

    mixes: tuple[Mix, ...]
    tokens: int
    readings: int
    target: str | None = None

    @property
    def teachers(self) -> list[str]:
        """All models that sequences are sampled from, and the target."""
        names = {name for mix in self.mixes for name in mix.teachers} | ({self.target} if self.target else set())
        return sorted(names)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """`mix` maps a corpus to its share of the training tokens; `parent` is the model it continues from, as bundled.

    parent_layers: the parent's layers that are copied, by number; None for all. distillations: run after that, one
    after the other.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    mix: dict[str, float]
    tokens: int
    parent: str | None = None
    parent_layers: tuple[int, ...] | None = None
    distillations: tuple[Distillation, ...] = ()


_LARGE = {"hidden": 256, "layers": 4, "heads": 4, "kv_heads": 2, "intermediate": 704}
_SHORT = {**_LARGE, "layers": 2}
_SMALL = {"hidden": 128, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 352}
_ALL = ("math", "general", "code")


def _drafter_for(member: str) -> Recipe:
    """A drafter for one member, for the `mixture` schedule: it learns that member's distribution on sequences that are
    sampled from mixtures. It starts as the member's first and last layer.
    """
    return Recipe(
        name=f"{member}-drafter", **_SHORT, mix={}, tokens=0, parent=member, parent_layers=(0, 3),
        distillations=(
            Distillation(
                mixes=(
                    Mix(teachers=_ALL, corpus="math", share=0.3),
                    Mix(teachers=_ALL, corpus="code", share=0.3),
                    Mix(teachers=("math", "general"), corpus="math", share=0.25),
                    Mix(teachers=("code", "general"), corpus="code", share=0.15),
                ),
                tokens=1_572_864, readings=2, target=member,
            ),
        ),
    )  # fmt: skip


RECIPES = (
    Recipe(name="general", **_LARGE, mix={"math": 0.4, "code": 0.6}, tokens=6_500_000),
    Recipe(name="math", **_LARGE, mix={"math": 1.0}, tokens=1_200_000, parent="general"),
    Recipe(name="code", **_LARGE, mix={"code": 1.0}, tokens=1_200_000, parent="general"),
    Recipe(
        name="amateur", hidden=128, layers=4, heads=2, kv_heads=1, intermediate=352,
        mix={"math": 0.4, "code": 0.6}, tokens=2_000_000,
    ),
    Recipe(
        name="drafter", **_SMALL,
        mix={"math": 0.4, "code": 0.6}, tokens=2_000_000,
        distillations=(
            Distillation(
                mixes=(
                    Mix(teachers=("math", "general"), corpus="math", share=0.6),
                    Mix(teachers=("code", "general"), corpus="code", share=0.4),
                ),
                tokens=4_000_000, readings=2,
            ),
            # All that it may draft for: the mixture of three members or of two, and one member alone.
            Distillation(
                mixes=(
                    Mix(teachers=_ALL, corpus="math", share=0.3),
                    Mix(teachers=_ALL, corpus="code", share=0.2),
                    Mix(teachers=("math", "general"), corpus="math", share=0.2),
                    Mix(teachers=("code", "general"), corpus="code", share=0.1),
                    Mix(teachers=("general",), corpus="math", share=0.1),
                    Mix(teachers=("general",), corpus="code", share=0.1),
                ),
                tokens=1_310_720, readings=2,
            ),
        ),
    ),
    *map(_drafter_for, _ALL),
)  # fmt: skip
