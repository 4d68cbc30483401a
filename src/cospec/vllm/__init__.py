"""An ensemble as one model of vLLM: a plugin for `vllm serve`, and what `cospec export --for vllm` writes for it.

Nothing of vLLM is imported before vLLM itself calls `register`.
"""

from importlib import import_module

# The architecture that an exported folder's config.json names.
ARCHITECTURE = "CospecEnsembleForCausalLM"
# vLLM releases that the plugin was tried with.
TRIED = ("0.32.0",)


def register() -> None:
    """vLLM calls this in each of its processes, by the entry point `vllm.general_plugins`."""
    registry = import_module("vllm").ModelRegistry
    if ARCHITECTURE not in registry.get_supported_archs():
        registry.register_model(ARCHITECTURE, f"{__name__}.model:EnsembleModel")
    # Asked by vLLM before a worker starts, so that what cannot be had is refused before weights are read.
    configs = import_module("vllm.model_executor.models.config").MODELS_CONFIG_MAP
    configs[ARCHITECTURE] = import_module(f"{__name__}.limits").EnsembleLimits
