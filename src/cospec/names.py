"""Names that users write, and defaults of what they may leave out.

They stand apart from what they are names of, which imports torch, so that the command line's help has them at once.
"""

from .plugins import Registry

SCHEDULES = Registry(
    "schedule",
    {
        "plain": "cospec.schedule.plain:Plain",
        "mixture": "cospec.schedule.mixture:DrawnMember",
        "fixed": "cospec.schedule.fixed:Fixed",
        "alternate": "cospec.schedule.alternate:Alternate",
        "cascade": "cospec.schedule.cascade:Cascade",
        "auto": "cospec.schedule.auto:Auto",
    },
    "cospec.schedules",
)
COMBINATIONS = Registry(
    "combination",
    {
        name.lower(): f"cospec.core.combine:{name}"
        for name in ("Arithmetic", "Contrastive", "Guided", "Mixture", "Product")
    }
    | {"custom": "cospec.core.combine:custom"},
    "cospec.combinations",
)
VERIFICATIONS = ("block", "coupled", "token")

DEFAULT_SCHEDULE, DEFAULT_COMBINATION, DEFAULT_VERIFICATION = "auto", "mixture", "block"
# The weight of the amateur that `contrastive` subtracts, and the scale of `guided`.
DEFAULT_MU, DEFAULT_SCALE = 0.1, 1.5
# Of an ensemble: sequences decoded at a time.
MAX_SEQUENCES = 32
# What stands for the user's prompt in a member's own.
PLACEHOLDER = "{prompt}"
