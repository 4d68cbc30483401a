"""What each bundled model is: its shape, what it reads, for how long, and which model it starts from."""

from dataclasses import dataclass

CONTEXT = 1024


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """`teachers` maps a corpus to models, mixed evenly; `mix` to its share of the texts that they write.

    tokens: how many there are of these texts; they are read `readings` times.
    """

    teachers: dict[str, tuple[str, ...]]
    mix: dict[str, float]
    tokens: int
    readings: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """`mix` maps a corpus to its share of the training tokens; `parent` is the model it continues from.

    distillation: what it learns from others after that.
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
    distillation: Distillation | None = None


_LARGE = {"hidden": 256, "layers": 4, "heads": 4, "kv_heads": 2, "intermediate": 704}

RECIPES = (
    Recipe(name="general", **_LARGE, mix={"math": 0.4, "code": 0.6}, tokens=6_500_000),
    Recipe(name="math", **_LARGE, mix={"math": 1.0}, tokens=1_200_000, parent="general"),
    Recipe(name="code", **_LARGE, mix={"code": 1.0}, tokens=1_200_000, parent="general"),
    Recipe(
        name="amateur", hidden=128, layers=4, heads=2, kv_heads=1, intermediate=352,
        mix={"math": 0.4, "code": 0.6}, tokens=2_000_000,
    ),
    Recipe(
        name="drafter", hidden=128, layers=2, heads=2, kv_heads=1, intermediate=352,
        mix={"math": 0.4, "code": 0.6}, tokens=2_000_000,
        distillation=Distillation(
            teachers={"math": ("math", "general"), "code": ("code", "general")},
            mix={"math": 0.6, "code": 0.4}, tokens=4_000_000, readings=2,
        ),
    ),
)  # fmt: skip
