"""cospec: decode text from several language models at once, exactly from their combined distribution, and fast."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import toy
    from .core.combine import Arithmetic, Combination, Contrastive, Custom, Guided, Mixture, Product
    from .core.engine import Engine
    from .core.events import Event, Result
    from .core.live import Request
    from .core.params import SamplingParams
    from .core.sheet import Sheet
    from .core.thread import EngineStopped
    from .core.tokens import Token
    from .ensemble import Ensemble
    from .errors import (
        CospecError,
        DoesNotFit,
        InvalidCombination,
        InvalidEnsemble,
        InvalidPrompt,
        InvalidSampling,
        InvalidSchedule,
        MemberFailed,
        ModelNotFound,
        UnknownName,
        UnsupportedModel,
        VocabularyMismatch,
    )
    from .hf_generate import custom_generate
    from .members import Member
    from .prompts import Chat
    from .runner import Feed, LoadOptions, Runner, Slot
    from .schedule import Cycle, Estimates, Plan, Schedule, Setting

__version__ = "0.1.0"

# Where the public names are made. They are imported when first asked for, so that `cospec --help` loads no torch.
_HOMES = {
    "core.combine": ("Arithmetic", "Combination", "Contrastive", "Custom", "Guided", "Mixture", "Product"),
    "core.engine": ("Engine",),
    "core.events": ("Event", "Result"),
    "core.live": ("Request",),
    "core.params": ("SamplingParams",),
    "core.sheet": ("Sheet",),
    "core.thread": ("EngineStopped",),
    "core.tokens": ("Token",),
    "ensemble": ("Ensemble",),
    "errors": (
        "CospecError",
        "DoesNotFit",
        "InvalidCombination",
        "InvalidEnsemble",
        "InvalidPrompt",
        "InvalidSampling",
        "InvalidSchedule",
        "MemberFailed",
        "ModelNotFound",
        "UnknownName",
        "UnsupportedModel",
        "VocabularyMismatch",
    ),
    "hf_generate": ("custom_generate",),
    "members": ("Member",),
    "prompts": ("Chat",),
    "runner": ("Feed", "LoadOptions", "Runner", "Slot"),
    "schedule": ("Cycle", "Estimates", "Plan", "Schedule", "Setting"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Arithmetic",
    "Chat",
    "Combination",
    "Contrastive",
    "CospecError",
    "Custom",
    "Cycle",
    "DoesNotFit",
    "Engine",
    "EngineStopped",
    "Ensemble",
    "Estimates",
    "Event",
    "Feed",
    "Guided",
    "InvalidCombination",
    "InvalidEnsemble",
    "InvalidPrompt",
    "InvalidSampling",
    "InvalidSchedule",
    "LoadOptions",
    "Member",
    "MemberFailed",
    "Mixture",
    "ModelNotFound",
    "Plan",
    "Product",
    "Request",
    "Result",
    "Runner",
    "SamplingParams",
    "Schedule",
    "Setting",
    "Sheet",
    "Slot",
    "Token",
    "UnknownName",
    "UnsupportedModel",
    "VocabularyMismatch",
    "custom_generate",
    "toy",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "toy":
        return import_module(f"{__name__}.toy")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
