"""State updates of transformers' recurrent layers, led over the slots of a pass.

The layers of all families call one of two updates, the gated delta rule or Mamba-2's scan, by the name that it has in
their module. The function of that name is replaced by one that does the same, unless the state that it is given is a
`StateView`, as only cospec's cache gives it.
"""

import math
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .masks import ATTENTION, RECURRENT
from .states import StateView

_NO_LIMIT = (0.0, math.inf)
# Tokens of a chunk of the gated delta rule on a CPU, at most. Within a chunk the logarithms of decays are summed in
# float32, and their differences taken: over transformers' 64 tokens, rounding is twice to four times as large as over
# 16, and the update takes no less time.
MOST_CHUNK = 16


def has_state(model: Any, config: PreTrainedConfig | None = None) -> bool:
    """Whether a model, or its class, keeps a recurrent state: hybrids whose layers are all attention keep none.

    config: of the text model; the model's own by default.
    """
    config = config or model.config.get_text_config()
    layer_types = set(getattr(config, "layer_types", None) or ())
    is_hybrid = bool(layer_types & RECURRENT)
    return is_hybrid or (bool(getattr(model, "_is_stateful", False)) and not (layer_types and layer_types <= ATTENTION))


def lead_over_slots(model: nn.Module) -> None:
    """Replace the state updates of the model's layers, in the modules that define them, once."""
    for module in {sys.modules[type(each).__module__] for each in model.modules()}:
        for name, replacement in _REPLACEMENTS.items():
            original = getattr(module, name, None)
            if original is not None and not hasattr(original, "is_led"):
                led: Any = replacement(original, module)
                led.is_led = True
                setattr(module, name, led)


def has_known_update(module_name: str) -> bool:
    """Whether the layers of a module, which is imported, update their states in a way known here."""
    return any(hasattr(sys.modules[module_name], name) for name in _REPLACEMENTS)


class DeltaRule:
    """The gated delta rule (Yang et al. 2024, Gated Delta Networks): inputs key, value, g and beta, read by the query.

    A token of decay g = 0 and rate beta = 0 leaves the state as it is.
    """

    def __init__(
        self,
        chunk: Callable[..., Any],
        step: Callable[..., Any],
        query: Tensor,
        inputs: Sequence[Tensor],
        **options: Any,
    ) -> None:
        self._chunk, self._step, self._options = chunk, step, options
        self.inputs, self.reads = inputs, query
        key, value = inputs[:2]
        self.shape: tuple[int, ...] = (value.shape[2], key.shape[3], value.shape[3])

    def run(self, inputs: Sequence[Tensor], reads: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        key, value, g, beta = inputs
        options = {**self._options, "initial_state": state, "output_final_state": True}
        width = key.shape[1]
        if width > 1 and key.device.type == "cpu":
            # Chunks of equal size, since the last one is padded to it.
            options["chunk_size"] = -(-width // -(-width // MOST_CHUNK))
        update = self._step if width == 1 else self._chunk
        output, state = update(key if reads is None else reads, key, value, g=g, beta=beta, **options)
        return output, state


class Mamba2Scan:
    """Mamba-2's update (Dao and Gu 2024): inputs x, the time step dt and B, read by C.

    A token of dt = 0 leaves the state as it is, [heads, dim, size]. decay: A, [heads]. skip: D, [heads].
    """

    def __init__(
        self, scan: Callable[..., Any], inputs: Sequence[Tensor], reads: Tensor, *, decay: Tensor, skip: Tensor | None,
        chunk_size: int,
    ) -> None:  # fmt: skip
        self._scan, self._decay, self._skip, self._chunk_size = scan, decay, skip, chunk_size
        self.inputs, self.reads = inputs, reads
        x, _, keys = inputs
        self.shape: tuple[int, ...] = (*x.shape[2:], keys.shape[3])

    def run(self, inputs: Sequence[Tensor], reads: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        x, dt, keys = inputs
        reads = keys if reads is None else reads
        if x.shape[1] == 1:
            return self._step(x[:, 0], dt[:, 0], keys[:, 0], reads[:, 0], state)
        # A shorter block is padded to one chunk; kernels want a power of two.
        width = x.shape[1] if x.device.type == "cpu" else max(16, 1 << (x.shape[1] - 1).bit_length())
        output, state = self._scan(
            x, dt, self._decay, keys, reads, chunk_size=min(self._chunk_size, width), D=self._skip, z=None,
            initial_states=state, return_final_states=True,
        )  # fmt: skip
        return output, state

    def _step(self, x: Tensor, dt: Tensor, keys: Tensor, reads: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x, dt = x.float(), dt.float()
        heads_a_group = x.shape[1] // keys.shape[1]
        keys, reads = (each.float().repeat_interleave(heads_a_group, dim=1) for each in (keys, reads))
        state = state * (dt * self._decay.float()).exp()[..., None, None]
        state = state + (x * dt[..., None])[..., None] * keys[..., None, :]
        output = (state @ reads[..., None])[..., 0]
        if self._skip is not None:
            output = output + x * self._skip[:, None]
        return output[:, None], state


def _led_delta_rule(original: Callable[..., Any], module: Any) -> Callable[..., Any]:
    chunk, step = (
        _original(module, "torch_chunk_gated_delta_rule"),
        _original(module, "torch_recurrent_gated_delta_rule"),
    )

    @wraps(original)
    def led(query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, **options: Any) -> Any:
        view = options.get("initial_state")
        if not isinstance(view, StateView):
            return original(query, key, value, g=g, beta=beta, **options)
        return view.run(DeltaRule(chunk, step, query, (key, value, g, beta), **options)), None

    return led


def _led_scan(original: Callable[..., Any], module: Any) -> Callable[..., Any]:
    @wraps(original)
    def led(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, **options: Any) -> Any:
        view = options.get("initial_states")
        if not isinstance(view, StateView):
            return original(x, dt, A, B, C, **options)
        steps = _time_steps(dt, options["dt_bias"], view)
        scan = Mamba2Scan(original, (x, steps, B), C, decay=A, skip=options["D"], chunk_size=options["chunk_size"])
        return view.run(scan), None

    return led


def _led_step(original: Callable[..., Any], module: Any) -> Callable[..., Any]:
    scan = _original(module, "mamba2_chunk_scan")

    @wraps(original)
    def led(state: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *args: Any, **options: Any) -> Any:
        if not isinstance(state, StateView):
            return original(state, x, dt, A, B, C, *args, **options)
        skip = args[0] if args else options["D"]
        # What a scan has by head, a step has by head and dimension.
        steps = _time_steps(dt[..., 0], options["dt_bias"][:, 0], state)
        inputs = [each[:, None] for each in (x, steps, B)]
        update = Mamba2Scan(scan, inputs, C[:, None], decay=A[:, 0, 0], skip=skip[:, 0], chunk_size=1)
        output = state.run(update)[:, 0]
        gate = options.get("z")
        return output if gate is None else output * F.silu(gate)

    return led


def _time_steps(dt: Tensor, bias: Tensor, view: StateView) -> Tensor:
    return F.softplus(dt + bias.to(dt.dtype)).clamp(*view.time_steps)


def _original(module: Any, name: str) -> Callable[..., Any]:
    function: Any = getattr(module, name)
    original: Callable[..., Any] = function.__wrapped__ if hasattr(function, "is_led") else function
    return original


def time_steps(model: nn.Module) -> dict[int, tuple[float, float]]:
    """Of each layer that limits its time steps, by number, the least and the most."""
    limited = (each for each in model.modules() if hasattr(each, "time_step_limit") and hasattr(each, "layer_idx"))
    return {each.layer_idx: tuple(each.time_step_limit or _NO_LIMIT) for each in limited}  # type: ignore[misc, arg-type]


_REPLACEMENTS = {
    "torch_chunk_gated_delta_rule": _led_delta_rule,
    "torch_recurrent_gated_delta_rule": _led_delta_rule,
    "mamba2_chunk_scan": _led_scan,
    "mamba2_selective_state_update": _led_step,
}
