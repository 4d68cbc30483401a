"""The products of low rank that adapters add to those of their base, for batches whose rows have different adapters.

The factors of all adapters stand side by side, and a row's products with those that are not its own are zeroed: two
products, however many adapters there are, and none where no row has one.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .adapter import Adapter, Factors
from .packing import packing


class RowAdapters:
    """Which adapter each row has: 0 for none, k for the k-th.

    ids: [rows]. only: the one that all rows have, if that is known without asking the device. each: the adapters that
    there are, where a row is to be a function of its own adapter alone, whatever others there are.
    """

    def __init__(self, ids: Tensor, only: int | None = None, each: Sequence[int] | None = None) -> None:
        self.ids, self.only, self.each = ids, only, each
        self._masks: dict[int, Tensor] = {}
        self._repeated: dict[int, RowAdapters] = {}

    @classmethod
    def of(cls, numbers: Sequence[int], device: torch.device, *, is_each: bool = False) -> "RowAdapters | None":
        """None where no row has an adapter."""
        if not any(numbers):
            return None
        ids = torch.tensor(numbers, device=device)
        if is_each:
            return cls(ids, each=sorted({*numbers} - {0}))
        return cls(ids, numbers[0] if len({*numbers}) == 1 else None)

    def at(self, ids: Tensor) -> "RowAdapters":
        """Of tokens with these of the adapters."""
        return RowAdapters(ids, self.only, self.each)

    def repeated(self, count: int) -> "RowAdapters":
        """The same for `count` tokens a row, one behind the other."""
        if count == 1:
            return self
        if count not in self._repeated:
            self._repeated[count] = self.at(self.ids.repeat_interleave(count))
        return self._repeated[count]

    def mask(self, table: Tensor) -> Tensor:
        """[rows, ranks]: each row's own of a table, [adapters + 1, ranks]."""
        if (mask := self._masks.get(id(table))) is None:
            mask = self._masks[id(table)] = table[self.ids]
        return mask


# [rows, in] -> [rows, out].
Product = Callable[[Tensor], Tensor]


class LowRank:
    """What adapters add to one product.

    down: [in, ranks], up: [ranks, out], of all adapters side by side. spans: each adapter's own ranks. table:
    [adapters + 1, ranks], 1 where a rank is the adapter's own.
    """

    def __init__(self, down: Tensor, up: Tensor, spans: Sequence[slice], table: Tensor) -> None:
        self.down, self.up = down, up
        self._table = table
        self.spans = spans
        self._own = [Factors(down[:, span], up[span]) for span in spans]
        self._products: dict[int, tuple[Product, Product]] = {}

    def __call__(self, x: Tensor, out: Tensor, rows: RowAdapters) -> Tensor:
        """out: [rows, out], of x [rows, in]."""
        x = x.to(self.up.dtype)
        if rows.each is not None:
            return self._one_by_one(x, out, rows.ids, rows.each)
        if rows.only is None:
            return torch.addmm(out, (x @ self.down).mul_(rows.mask(self._table)), self.up)
        own = self._own[rows.only - 1]
        return torch.addmm(out, x @ own.down, own.up)

    def _one_by_one(self, x: Tensor, out: Tensor, ids: Tensor, each: Sequence[int]) -> Tensor:
        """Products of the same shapes whatever adapters there are; rows of others gain zeros."""
        for number in each:
            if self._own[number - 1].up.shape[0]:
                down, up = self._products_of(number)
                out = out + up(down(x).mul_((ids == number)[:, None]))
        return out

    def _products_of(self, number: int) -> tuple[Product, Product]:
        """An adapter's two products. Of plain weights as small as these, kernels are chosen by the number of rows."""
        if number not in self._products:
            own = self._own[number - 1]
            kind = packing(own.up.dtype)
            if kind is not None:
                self._products[number] = kind(own.down.t(), None).forward, kind(own.up.t(), None).forward
            else:
                self._products[number] = partial(torch.matmul, other=own.down), partial(torch.matmul, other=own.up)
        return self._products[number]


class LowRanks:
    """Makes the low-rank terms of products, of the same adapters, whose factors become views of them: each weight is
    held once."""

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self._adapters = adapters
        # Terms of equal ranks share a table, and a pass's masks with it.
        self._tables: dict[tuple[int, ...], Tensor] = {}

    def of(self, parts: Sequence[tuple[str, int]]) -> LowRank | None:
        """The term of modules that read the same and whose outputs stand side by side; None where no adapter changes
        them. parts: their names, and the width of what each gives."""
        width, blocks = sum(own for _, own in parts), list(self._blocks(parts))
        if not blocks:
            return None
        down = torch.cat([block.factors.down for block in blocks], dim=1)
        up = torch.cat([F.pad(each.factors.up, (each.column, width - each.column - each.width)) for each in blocks])
        ranks, stop = [0] * len(self._adapters), 0
        for block in blocks:
            start, stop = stop, stop + block.factors.up.shape[0]
            ranks[block.adapter] += stop - start
            columns = slice(block.column, block.column + block.width)
            self._adapters[block.adapter].factors[block.name] = Factors(down[:, start:stop], up[start:stop, columns])
        stops = list(itertools.accumulate(ranks))
        spans = [slice(stop - rank, stop) for stop, rank in zip(stops, ranks, strict=True)]
        return LowRank(down, up, spans, self._table(tuple(ranks), down))

    def _blocks(self, parts: Sequence[tuple[str, int]]) -> Iterator["_Block"]:
        """The factors that there are, adapter by adapter."""
        for index, adapter in enumerate(self._adapters):
            column = 0
            for name, width in parts:
                if name in adapter.factors:
                    yield _Block(index, name, adapter.factors[name], column, width)
                column += width

    def _table(self, ranks: tuple[int, ...], like: Tensor) -> Tensor:
        if ranks not in self._tables:
            own = torch.eye(len(ranks)).repeat_interleave(torch.tensor(ranks), dim=1)
            self._tables[ranks] = F.pad(own, (0, 0, 1, 0)).to(like)
        return self._tables[ranks]


class _Block(NamedTuple):
    """An adapter's factors of one module, whose outputs begin at a column of a product's."""

    adapter: int
    name: str
    factors: Factors
    column: int
    width: int


class ModuleTerms:
    """Adds adapters' terms in a model's own modules, by hooks that act within `applied` alone."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._terms: dict[str, LowRank] = {}
        self._hooks: dict[str, RemovableHandle] = {}

    def adapt(self, adapters: Sequence[Adapter]) -> None:
        """Take these adapters in place of others. All of their modules are the model's."""
        low_ranks = LowRanks(adapters)
        self._terms = {}
        for name in dict.fromkeys(name for adapter in adapters for name in adapter.factors):
            width = next(adapter.factors[name].up.shape[1] for adapter in adapters if name in adapter.factors)
            if (term := low_ranks.of([(name, width)])) is not None:
                self._terms[name] = term
            if name not in self._hooks:
                module = self._model.get_submodule(name)
                self._hooks[name] = module.register_forward_hook(partial(self._add, name))

    def remove(self) -> None:
        """Leave the modules as they were."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    @contextmanager
    def applied(self, rows: RowAdapters | None) -> Iterator[None]:
        """Within it, rows of the model's batch have these adapters. Other models that share its modules have not."""
        token = _APPLIED.set(None if rows is None else (self, rows))
        try:
            yield
        finally:
            _APPLIED.reset(token)

    def _add(self, name: str, _module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        applied = _APPLIED.get()
        if applied is None or applied[0] is not self or name not in self._terms:
            return None
        x, rows = args[0].flatten(0, -2), applied[1]
        tokens = rows.repeated(x.shape[0] // rows.ids.shape[0])
        return self._terms[name](x, out.flatten(0, -2), tokens).view_as(out)


# The terms that a pass applies, and its rows: a model's modules may be run by several threads, and by other models.
_APPLIED: ContextVar[tuple[ModuleTerms, RowAdapters] | None] = ContextVar("applied", default=None)
