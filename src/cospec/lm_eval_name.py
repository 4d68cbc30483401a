"""The name `cospec` in lm-eval's registry of models.

Versions of lm-eval behind 0.4.13 read it from the entry point `lm_eval.models`. For 0.4.13, which reads none, torch
calls `register` while it is imported (its entry point `torch.backends`); in a program without lm-eval it does nothing.
"""

import sys

NAME, TARGET = "cospec", "cospec.lm_eval:CospecLM"


def register() -> None:
    """Make the name known to a lm-eval that this program has begun to import."""
    if "lm_eval" not in sys.modules:
        return
    try:
        # Its own models are looked for in an empty registry alone.
        import lm_eval.models  # noqa: F401
        from lm_eval.api.registry import model_registry
    except ImportError:  # a version without this registry: torch is to be imported all the same
        return
    if NAME not in model_registry:
        model_registry.register(NAME, target=TARGET)
