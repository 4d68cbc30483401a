"""The adapter of the real demonstration: SmolLM2-135M-Instruct tuned on GSM8K's training questions, as a chat."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from cospec.demo import SMOLLM2, smollm2_file

from .cards import write_adapter_card
from .chats import Example, batches, encode, gsm8k_chats, padded

ADAPTER = "smollm2-gsm8k"

RANK, ALPHA = 8, 16
BATCH, STEPS = 8, 600
LR, WARM_UP = 1e-3, 0.05
# The held-out answers whose perplexity the card states.
NUM_SCORED = 100
# Of PEFT's settings, those that are not of other kinds of adapters.
KEPT_SETTINGS = {
    "base_model_name_or_path",
    "bias",
    "fan_in_fan_out",
    "inference_mode",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
}
SECONDS_BETWEEN_CHECKPOINTS = 120.0
STEPS_BETWEEN_EVALUATIONS, NUM_EVALUATED = 100, 40


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training's outcome. step: of the weights that were kept, of so many. tokens: read, prompts included."""

    step: int
    steps: int
    tokens: int
    seconds: float


def make_adapter(rows: Path, folder: Path, work: Path, report: Callable[[int, int, float], None]) -> None:
    """Train the adapter on GSM8K's rows and write it with its card, which states the held-out perplexities."""
    model, tokenizer = base_model()
    train, held_out = ([encode(chat, tokenizer) for chat in chats] for chats in gsm8k_chats(rows))
    tuned = with_adapter(model)
    trained = train_adapter(tuned, train, held_out, work / f"{ADAPTER}.pt", report)
    write_adapter(tuned, folder)
    scored = held_out[:NUM_SCORED]
    with tuned.disable_adapter():
        before = answer_perplexity(tuned, scored)
    after = answer_perplexity(tuned, scored)
    size = (folder / "adapter_model.safetensors").stat().st_size
    figures = {
        **asdict(trained),
        "rank": RANK,
        "bytes": size,
        "scored": len(scored),
        "perplexity": {"base": before, "tuned": after},
    }
    write_adapter_card(folder, figures)
    print(json.dumps({"name": ADAPTER, **figures}), flush=True)


def write_adapter(model: PeftModel, folder: Path) -> None:
    """In bfloat16; the model's weights become what was written."""
    config = model.peft_config["default"]
    # PEFT writes where the base lay on this machine.
    config.base_model_name_or_path = SMOLLM2
    config.inference_mode = True
    weights = {
        name: weight.to(torch.bfloat16).contiguous() for name, weight in get_peft_model_state_dict(model).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {name: value for name, value in config.to_dict().items() if name in KEPT_SETTINGS}
    settings["target_modules"] = sorted(settings["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    set_peft_model_state_dict(model, {name: weight.float() for name, weight in weights.items()})


def base_model(dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    file = smollm2_file()
    folder = str(file.parent)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=dtype)
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=file.name)


def with_adapter(model: PreTrainedModel) -> PeftModel:
    torch.manual_seed(0)
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        base_model_name_or_path=SMOLLM2,
    )
    return get_peft_model(model, config)


def train_adapter(
    model: PeftModel,
    examples: list[Example],
    held_out: list[Example],
    checkpoint: Path,
    report: Callable[[int, int, float], None],
) -> Trained:
    """Train the adapter in place; it ends as the best of the evaluated steps. Resumes from `checkpoint`.

    report(step, steps, loss) is called after each step.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LR, betas=(0.9, 0.98), weight_decay=0.0)
    state = _resume(checkpoint, model, optimizer)
    chosen = batches(examples, BATCH, STEPS, seed=0)
    began = saved = time.monotonic() - state["seconds"]
    for step in range(state["step"], STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * min((step + 1) / (WARM_UP * STEPS), 1.0 - step / STEPS)
        loss = answer_loss(model, chosen[step])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        state["tokens"] += sum(map(len, chosen[step]))
        report(step + 1, STEPS, loss.item())
        is_evaluated = (step + 1) % STEPS_BETWEEN_EVALUATIONS == 0
        if is_evaluated:
            _keep_best(state, model, held_out[:NUM_EVALUATED], step + 1)
        if is_evaluated or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
            saved = time.monotonic()
            state |= {"step": step + 1, "seconds": saved - began}
            _save(checkpoint, state, model, optimizer)
    step, _, best = state["best"]
    set_peft_model_state_dict(model, best)
    return Trained(step=step, steps=STEPS, tokens=state["tokens"], seconds=time.monotonic() - began)


def answer_loss(model: PeftModel, batch: list[Example], reduction: str = "mean") -> Tensor:
    """Cross entropy of the answers' tokens; the head is computed at their positions only."""
    ids, targets = padded(batch, model.config.eos_token_id)
    whole = model.get_base_model()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = whole.model(input_ids=ids, use_cache=False).last_hidden_state
        logits = whole.lm_head(hidden[targets >= 0])
    return torch.nn.functional.cross_entropy(logits.float(), targets[targets >= 0], reduction=reduction)


@torch.inference_mode()
def answer_perplexity(model: PeftModel, examples: list[Example]) -> float:
    """exp of the mean negative log-likelihood of an answer's token."""
    ordered = sorted(examples, key=len)
    groups = [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]
    total = sum(answer_loss(model, group, "sum").item() for group in groups)
    return math.exp(total / sum(len(example.answer) for example in examples))


def _keep_best(state: dict, model: PeftModel, held_out: list[Example], step: int) -> None:
    value = answer_perplexity(model, held_out)
    print(json.dumps({"step": step, "held-out perplexity": round(value, 4)}), flush=True)
    if state["best"] is None or value < state["best"][1]:
        weights = {name: weight.detach().clone() for name, weight in get_peft_model_state_dict(model).items()}
        state["best"] = (step, value, weights)


def _save(path: Path, state: dict, model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
    content = {**state, "adapter": get_peft_model_state_dict(model), "optimizer": optimizer.state_dict()}
    # Written beside and moved, so that an interruption never leaves half a checkpoint.
    torch.save(content, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def _resume(path: Path, model: PeftModel, optimizer: torch.optim.Optimizer) -> dict:
    if not path.exists():
        return {"step": 0, "seconds": 0.0, "tokens": 0, "best": None}
    state = torch.load(path, weights_only=True)
    set_peft_model_state_dict(model, state.pop("adapter"))
    optimizer.load_state_dict(state.pop("optimizer"))
    return state
