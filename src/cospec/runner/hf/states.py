"""Recurrent layers' states, by slot: convolution windows, and states that are updated token by token.

Of each a slot has what it needs to be rolled back (see `rollback`): the inputs since its snapshot, and for a state the
snapshot.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .rollback import StatePlan


class StateUpdate(Protocol):
    """One layer's state update in one forward pass.

    inputs: what changes the state, [rows, width, ...] each; where all are zero, it stays as it is. reads: what reads it
    alone, [rows, width, ...]. shape: of a row's state.
    """

    inputs: Sequence[Tensor]
    reads: Tensor
    shape: tuple[int, ...]

    def run(self, inputs: Sequence[Tensor], reads: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """Output [rows, width, ...] and the state after it, of a state [rows, *shape] that is left as it is."""
        ...


class History:
    """Inputs of each slot's last tokens, [slots, lead + tokens, ...]: those behind the snapshot, and `lead` before."""

    def __init__(self, lead: int, example: Tensor) -> None:
        """example: [rows, width, ...], of which the type and the last dimensions are taken."""
        self.lead = lead
        self.stored = example.new_zeros((0, 0, *example.shape[2:]))

    def reserve(self, num_slots: int, capacity: int) -> None:
        self.stored = _grown(self.stored, num_slots, self.lead + capacity)

    def before(self, plan: StatePlan) -> Tensor:
        """[rows, lead, ...]: the inputs in front of what each row is fed."""
        if plan.fresh is not None:
            self.stored[plan.fresh] = 0
        if plan.only is not None:
            slot, offset, _, _ = plan.only
            return self.stored[slot : slot + 1, offset : offset + self.lead]
        places = plan.offsets[:, None] + torch.arange(self.lead, device=plan.offsets.device)
        return self.stored[plan.batch.slot_ids[:, None], places]

    def first(self, slots: Tensor, counts: Tensor, width: int) -> Tensor:
        """[slots, width, ...]: of each slot the first `counts` inputs behind the snapshot, and zeros."""
        found = self.stored[slots, self.lead : self.lead + width]
        is_other = torch.arange(width, device=slots.device) >= counts[:, None]
        return found.masked_fill(_like(is_other, found), 0)

    def write(self, plan: StatePlan, values: Tensor) -> None:
        """values: [rows, lead + width, ...], each row's tokens on the right, and what was `before` them."""
        if plan.only is not None:
            slot, _, offset, count = plan.only
            self.stored[slot, offset : offset + self.lead + count] = values[0, -self.lead - count :]
            return
        rows, columns, slots, places = plan.written(self.lead)
        self.stored[slots, places] = values[rows, columns]
        if plan.deep is not None:
            rows, slots, _ = plan.deep
            kept = self.lead + plan.back
            self.stored[slots, :kept] = values[rows, -kept:]


class ConvolutionState:
    """A causal convolution's windows: the `kernel` - 1 inputs before a token."""

    def __init__(self, kernel: int, inputs: Tensor) -> None:
        self._history = History(kernel - 1, inputs.transpose(1, 2))

    @property
    def tensors(self) -> list[Tensor]:
        return [self._history.stored]

    def update(self, plan: StatePlan, inputs: Tensor) -> Tensor:
        """Keep inputs [rows, channels, width]; them behind each row's window, [rows, channels, kernel - 1 + width]."""
        history = self._history
        history.reserve(plan.batch.num_slots, plan.capacity)
        values = torch.cat([history.before(plan), inputs.transpose(1, 2)], dim=1)
        if plan.padding is not None:
            values = _moved_to_tokens(values, history.lead, plan.num_padding)
        history.write(plan, values)
        return values.transpose(1, 2)


class RecurrentState:
    """A state that each token changes: the current one and the snapshot, [slots, 2, ...], and what was given since."""

    def __init__(self, update: StateUpdate) -> None:
        self._states = torch.zeros((0, 2, *update.shape), device=update.inputs[0].device)
        self._histories = [History(0, each) for each in update.inputs]

    @property
    def tensors(self) -> list[Tensor]:
        return [self._states, *(each.stored for each in self._histories)]

    def run(self, plan: StatePlan, update: StateUpdate) -> Tensor:
        """Output of what the rows are fed, [rows, width, ...]."""
        self._states = _grown(self._states, plan.batch.num_slots)
        for history in self._histories:
            history.reserve(plan.batch.num_slots, plan.capacity)
        inputs = update.inputs
        if plan.padding is not None:
            inputs = [each.masked_fill(_like(plan.padding, each), 0) for each in inputs]
        state = self._begin(plan, update)
        if plan.num_joined:
            output, state = self._run_joined(plan, update, inputs, state)
        elif plan.deep is None:
            output, state = update.run(inputs, update.reads, state)
        else:
            rows, slots, places = plan.deep
            front, back = slice(None, -plan.back), slice(-plan.back, None)
            first, state = update.run([each[:, front] for each in inputs], update.reads[:, front], state)
            self._states[slots, places] = state[rows]
            last, state = update.run([each[:, back] for each in inputs], update.reads[:, back], state)
            output = torch.cat([first, last], dim=1)
        self._states[plan.batch.slot_ids, plan.targets] = state
        for history, values in zip(self._histories, inputs, strict=True):
            history.write(plan, values)
        return output

    def _run_joined(
        self, plan: StatePlan, update: StateUpdate, inputs: Sequence[Tensor], state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The update of what the only row is fed, behind what stood behind its snapshot. state: of the snapshot."""
        slot, count = plan.batch.slots[0], plan.num_joined
        joined = [
            torch.cat([history.stored[slot : slot + 1, :count], each], dim=1)
            for history, each in zip(self._histories, inputs, strict=True)
        ]
        unread = update.reads.new_zeros((1, count, *update.reads.shape[2:]))
        output, state = update.run(joined, torch.cat([unread, update.reads], dim=1), state)
        return output[:, count:], state

    def _begin(self, plan: StatePlan, update: StateUpdate) -> Tensor:
        """The rows' states before what they are fed, or before what stood where that is joined to it; and the snapshots
        moved there that are to be."""
        if plan.fresh is not None:
            self._states[plan.fresh] = 0
        if plan.only is not None and (plan.num_joined or not plan.restored):
            return self._states[plan.batch.slots[0], plan.source][None]
        state = self._states[plan.batch.slot_ids, plan.sources]
        for width, rows, slots, counts in plan.restored:
            given = [history.first(slots, counts, width) for history in self._histories]
            state[rows] = update.run(given, None, state[rows])[1]
        if plan.moved is not None:
            rows, slots, places = plan.moved
            self._states[slots, places] = state[rows]
        return state


class StateLayer:
    """One layer's states, made as its first pass shows what they are like. By number, since a layer may have several
    convolutions."""

    def __init__(self) -> None:
        self._convolutions: dict[int, ConvolutionState] = {}
        self._recurrent: RecurrentState | None = None

    @property
    def tensors(self) -> list[Tensor]:
        states: list[ConvolutionState | RecurrentState] = [*self._convolutions.values()]
        if self._recurrent is not None:
            states.append(self._recurrent)
        return [tensor for state in states for tensor in state.tensors]

    def convolve(self, plan: StatePlan, inputs: Tensor, number: int, kernel: int) -> Tensor:
        if number not in self._convolutions:
            self._convolutions[number] = ConvolutionState(kernel, inputs)
        return self._convolutions[number].update(plan, inputs)

    def run(self, plan: StatePlan, update: StateUpdate) -> Tensor:
        if self._recurrent is None:
            self._recurrent = RecurrentState(update)
        return self._recurrent.run(plan, update)


class StateView:
    """What a layer is given for its state: the update that is given it runs on the slots of the pass.

    time_steps: the least and the most that a step of the layer's time may be.
    """

    def __init__(self, run: Callable[[StateUpdate], Tensor], time_steps: tuple[float, float]) -> None:
        self.run, self.time_steps = run, time_steps


def _like(mask: Tensor, values: Tensor) -> Tensor:
    """A mask [rows, width] of values [rows, width, ...]."""
    return mask.view(*mask.shape, *[1] * (values.dim() - 2))


def _moved_to_tokens(values: Tensor, lead: int, num_padding: Tensor) -> Tensor:
    """values [rows, lead + width, ...] with the first `lead` of each row moved over its padding to its tokens."""
    columns = torch.arange(values.shape[1], device=values.device)
    sources = columns - num_padding[:, None]
    sources = torch.where(sources < lead, sources.clamp_(min=0), columns)
    return values[torch.arange(len(values), device=values.device)[:, None], sources]


def _grown(stored: Tensor, num_slots: int, length: int | None = None) -> Tensor:
    """At least so many slots, which double, and of each at least so many entries."""
    slots, held = stored.shape[0], stored.shape[1]
    length = held if length is None else max(held, length)
    if slots >= num_slots and held == length:
        return stored
    while slots < num_slots:
        slots = max(1, 2 * slots)
    grown = stored.new_zeros((slots, length, *stored.shape[2:]))
    grown[: stored.shape[0], :held] = stored
    return grown
