"""A context of llama.cpp's: the keys and values of many sequences, in one store that grows with them."""

import ctypes
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import DoesNotFit, MemberFailed
from ..memory import free_bytes
from .library import last_errors, library
from .weights import Adapter, Weights

# Tokens of one call, and how many of them may have rows: llama.cpp keeps buffers for as many.
NUM_TOKENS, NUM_ROWS = 512, 256
# The most sequences of a context that llama.cpp can be built for; each costs a few bits a token.
NUM_SEQUENCES = 256
FIRST_CELLS = 2048
_F16 = 1
_FLASH_ATTENTION_OFF = 0
_NO_CELLS = 1
_MIB = 2**20


@dataclass(frozen=True)
class Piece:
    """Tokens of one sequence behind its first `start`. rows: how many of them, counted from the last, have rows."""

    sequence: int
    start: int
    tokens: Sequence[int]
    rows: int


class Context:
    """Sequences by number, each fed, copied and cut back by itself, and the rows of all that is fed in one call.

    Keys and values are float16, and attention is not "flash": what a row is does not depend on either being chosen. A
    token of any sequence takes a cell, which a copy shares. adapter: what is computed with; None for the file alone.
    """

    def __init__(self, weights: Weights, adapter: Adapter | None = None, num_cells: int = FIRST_CELLS) -> None:
        """Raises DoesNotFit where a store of so many cells cannot be had."""
        self._llama = library()
        self.weights, self.adapter = weights, adapter
        self.num_cells = num_cells
        self.cell_bytes = 0
        self._threads = torch.get_num_threads()
        self._batch = _Batch(self._llama)
        self._open: set[int] = set()
        self._hold(self._made(num_cells))

    def of_size(self, num_cells: int) -> "Context":
        """Another one of these weights, with a store of so many cells. Raises DoesNotFit."""
        self._check_room(num_cells)
        other = Context(self.weights, self.adapter, num_cells)
        other.cell_bytes = self.cell_bytes
        return other

    def measure_cells(self, sequence: int, length: int) -> None:
        """Note what a token takes of memory, by a sequence that holds so many."""
        self.cell_bytes = self._llama.llama_state_seq_get_size(self._handle, sequence) // length

    @property
    def num_bytes(self) -> int:
        """Bytes of keys and values, as allocated."""
        return self.num_cells * self.cell_bytes

    def open(self) -> int:
        """The lowest number of a sequence that is not in use. Raises DoesNotFit."""
        free = next((each for each in range(NUM_SEQUENCES) if each not in self._open), None)
        if free is None:
            raise DoesNotFit(
                f"llama.cpp keeps {NUM_SEQUENCES} sequences of a model at most; decode fewer at a time (max_sequences)"
            )
        self._open.add(free)
        return free

    def close(self, sequence: int) -> None:
        self._open.remove(sequence)
        self.cut(sequence, 0)

    def cut(self, sequence: int, length: int) -> None:
        """Forget what stands behind the first `length` tokens. Raises MemberFailed where llama.cpp cannot."""
        if not self._llama.llama_memory_seq_rm(self._memory, sequence, length, -1):
            raise MemberFailed(f"llama.cpp cannot roll this model back to {length} tokens")

    def copy(self, source: int, sequence: int, length: int) -> None:
        """Let an empty sequence hold the first `length` tokens of another one, in the same cells."""
        self._llama.llama_memory_seq_cp(self._memory, source, sequence, 0, length)

    def rows(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Feed all of them, and return the rows wanted of each, [rows, entries]. If it raises, nothing has changed."""
        self._follow_threads()
        rows: list[list[Tensor]] = [[] for _ in pieces]
        try:
            for call in _calls(pieces):
                fed, begin = self._fed([piece for _, piece in call]), 0
                for index, piece in call:
                    rows[index].append(fed[begin : begin + piece.rows])
                    begin += piece.rows
        except BaseException:
            for piece in pieces:
                self.cut(piece.sequence, piece.start)
            raise
        return [each[-1] if len(each) == 1 else torch.cat(each) for each in rows]

    def _fed(self, pieces: Sequence[Piece]) -> Tensor:
        """All rows of one call."""
        num_rows = self._batch.fill(pieces)
        status = self._llama.llama_decode(self._handle, self._batch.struct)
        if status == _NO_CELLS:
            self._grow(sum(len(piece.tokens) for piece in pieces))
            status = self._llama.llama_decode(self._handle, self._batch.struct)
        if status != 0:
            raise MemberFailed(f"llama.cpp could not compute a forward pass (status {status}){last_errors()}")
        rows = torch.empty(num_rows, self.weights.num_entries)
        if num_rows:
            # Those of a call lie one behind the other, until the next call.
            first = self._llama.llama_get_logits_ith(self._handle, self._batch.first_row)
            ctypes.memmove(rows.data_ptr(), first, rows.nbytes)
        return rows

    def _grow(self, num_more: int) -> None:
        """Move all sequences into a store that has room for so many tokens more. Raises DoesNotFit.

        Cells that sequences share are copied for each of them."""
        lengths = {each: self._llama.llama_memory_seq_pos_max(self._memory, each) + 1 for each in self._open}
        wanted = sum(lengths.values()) + num_more
        num_cells = 2 * self.num_cells
        while num_cells < wanted:
            num_cells *= 2
        self._check_room(num_cells)
        made = self._made(num_cells)
        for sequence, length in lengths.items():
            if length:
                self._move(sequence, made)
        self._free()
        self.num_cells = num_cells
        self._hold(made)

    def _move(self, sequence: int, made: Any) -> None:
        size = self._llama.llama_state_seq_get_size(self._handle, sequence)
        state = (ctypes.c_uint8 * size)()
        taken = self._llama.llama_state_seq_get_data(self._handle, state, size, sequence)
        if taken != size or self._llama.llama_state_seq_set_data(made, state, size, sequence) != size:
            self._llama.llama_free(made)
            raise MemberFailed(f"llama.cpp could not move a sequence into a larger store{last_errors()}")

    def _check_room(self, num_cells: int) -> None:
        """Raises DoesNotFit where there is no memory for a store of so many cells beside the one in use."""
        needed, free = num_cells * self.cell_bytes, free_bytes(self.weights.device)
        if needed > free:
            raise DoesNotFit(
                f"the sequences of {self.weights.file.name} need {needed / _MIB:.0f} MiB on {self.weights.device} for "
                f"their keys and values, and {free / _MIB:.0f} MiB are free; decode fewer or shorter ones at a time"
            )

    def _made(self, num_cells: int) -> Any:
        """A new context. Raises DoesNotFit."""
        params = self._llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = num_cells, NUM_TOKENS, NUM_TOKENS
        params.n_seq_max, params.n_outputs_max = NUM_SEQUENCES, NUM_ROWS
        params.n_threads = params.n_threads_batch = self._threads
        params.type_k = params.type_v = _F16
        params.flash_attn_type = _FLASH_ATTENTION_OFF
        # One store for all sequences; and all positions of it, so that any may be the last again after a rollback.
        params.kv_unified = params.swa_full = True
        params.no_perf = True
        last_errors()
        made = self._llama.llama_init_from_model(self.weights.handle, params)
        if not made:
            raise DoesNotFit(
                f"llama.cpp cannot make a context of {num_cells} tokens for {self.weights.file.name}{last_errors()}"
            )
        if self.adapter is not None:
            self.adapter.put_on(made)
        return made

    def _hold(self, made: Any) -> None:
        self._handle = made
        self._memory = self._llama.llama_get_memory(made)
        # The weights stay as long as a context of theirs.
        self._free = weakref.finalize(self, _free, self._llama, made, self.weights)

    def _follow_threads(self) -> None:
        """Compute with as many threads as torch does now."""
        threads = torch.get_num_threads()
        if threads != self._threads:
            self._threads = threads
            self._llama.llama_set_n_threads(self._handle, threads, threads)


def _free(llama: Any, handle: Any, weights: Weights) -> None:
    llama.llama_free(handle)


def _calls(pieces: Sequence[Piece]) -> Iterator[list[tuple[int, Piece]]]:
    """What goes into each call, as parts of the pieces with their numbers: NUM_TOKENS and NUM_ROWS at most."""
    call: list[tuple[int, Piece]] = []
    tokens_left, rows_left = NUM_TOKENS, NUM_ROWS
    for index, piece in enumerate(pieces):
        while True:
            part, rest = _parted(piece, tokens_left, rows_left)
            if part is not None:
                call.append((index, part))
                tokens_left -= len(part.tokens)
                rows_left -= part.rows
            if rest is None:
                break
            yield call
            call, piece = [], rest
            tokens_left, rows_left = NUM_TOKENS, NUM_ROWS
    yield call


def _parted(piece: Piece, num_tokens: int, num_rows: int) -> tuple[Piece | None, Piece | None]:
    """As much of it as so many tokens and rows allow, and what is left."""
    total = len(piece.tokens)
    count = min(total, num_tokens, total - piece.rows + num_rows)
    if count == total:
        return piece, None
    if count <= 0:
        return None, piece
    rest = total - count
    return (
        Piece(piece.sequence, piece.start, piece.tokens[:count], max(0, piece.rows - rest)),
        Piece(piece.sequence, piece.start + count, piece.tokens[count:], min(piece.rows, rest)),
    )


class _Batch:
    """llama.cpp's batch of one call, filled anew for each."""

    def __init__(self, llama: Any) -> None:
        self._token, self._position, self._sequence = (np.zeros(NUM_TOKENS, np.int32) for _ in range(3))
        self._counts = np.ones(NUM_TOKENS, np.int32)
        self._wanted = np.zeros(NUM_TOKENS, np.int8)
        size = self._sequence.itemsize
        # For each token an array of the sequences that it belongs to, of one.
        self._sequences = np.arange(NUM_TOKENS, dtype=np.uintp) * size + self._sequence.ctypes.data
        self.struct = llama.llama_batch()
        arrays: dict[str, Any] = {
            "token": self._token, "pos": self._position, "n_seq_id": self._counts, "seq_id": self._sequences,
            "logits": self._wanted,
        }  # fmt: skip
        types = dict(self.struct._fields_)
        for name, array in arrays.items():
            setattr(self.struct, name, ctypes.cast(ctypes.c_void_p(array.ctypes.data), types[name]))
        self.first_row = 0

    def fill(self, pieces: Sequence[Piece]) -> int:
        """Take in these pieces; the number of rows wanted. first_row: the first token that has one."""
        end = num_rows = 0
        for piece in pieces:
            begin, end = end, end + len(piece.tokens)
            self._token[begin:end] = piece.tokens
            self._position[begin:end] = range(piece.start, piece.start + end - begin)
            self._sequence[begin:end] = piece.sequence
            self._wanted[begin:end] = 0
            if piece.rows:
                self._wanted[end - piece.rows : end] = 1
                if not num_rows:
                    self.first_row = end - piece.rows
                num_rows += piece.rows
        self.struct.n_tokens = end
        return num_rows
