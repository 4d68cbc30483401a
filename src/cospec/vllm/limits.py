"""What vLLM cannot hold of an ensemble, told before weights are read. Its objects are asked, and not imported."""

from pathlib import Path
from typing import Any

from ..errors import ModelNotFound, UnsupportedModel, shown
from .described import KEY, Description

# Drafts that depend on tokens alone, or on a model of its own; all are verified against r.
DRAFTING = ("ngram", "ngram_gpu", "suffix", "draft_model")
# Ways to verify drafts that leave a sample of r.
VERIFYING = ("standard", "block")


class EnsembleLimits:
    """vLLM's hook for a model's configuration (VerifyAndUpdateConfig)."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Raises UnsupportedModel."""
        check(vllm_config)

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Raises what a description raises that cannot be read, and ModelNotFound."""
        check_members(Description.from_json(getattr(model_config.hf_config, KEY, None)))


def check_members(described: Description) -> None:
    """Raises ModelNotFound for a member that does not lie where it lay at the export."""
    for member in described.members:
        if not (Path(member.model) / "config.json").is_file():
            raise ModelNotFound(
                f"the member {member.name!r} was at {member.model!r} when the ensemble was exported, and no model is "
                "there now; move it back, or export the ensemble again (cospec export --for vllm)"
            )


def check(vllm_config: Any) -> None:
    """Raises UnsupportedModel for a way to run that would not give r. vllm_config: vLLM's VllmConfig."""
    stages = vllm_config.parallel_config.pipeline_parallel_size
    if stages > 1:
        raise UnsupportedModel(
            f"pipeline_parallel_size is {stages}, and an ensemble has no one stack of layers to cut: its members run "
            "side by side; use --tensor-parallel-size, which cuts every member"
        )
    method = getattr(vllm_config.speculative_config, "method", None)
    if method is not None and method not in DRAFTING:
        raise UnsupportedModel(
            f"the drafter {shown(method)} reads the hidden states of one model, and an ensemble has those of each "
            f"member, of different widths; use {', '.join(DRAFTING)}: "
            '--speculative-config \'{"method": "draft_model", "model": ...}\', or let cospec serve draft with a member'
        )
    verifying = getattr(vllm_config.speculative_config, "rejection_sample_method", VERIFYING[0])
    if verifying not in VERIFYING:
        raise UnsupportedModel(
            f"rejection_sample_method {shown(verifying)} leaves no sample of r; use {' or '.join(VERIFYING)}"
        )
    if vllm_config.lora_config is not None:
        raise UnsupportedModel(
            "LoRA adapters that requests choose would have to name a member each; leave --enable-lora out, and export "
            "an ensemble whose member is the adapter: it is merged then"
        )
