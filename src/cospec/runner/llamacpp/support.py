"""Which files can be decoded exactly: refused by what llama.cpp says of them, or tested as they are loaded."""

import math

import torch
from torch import Tensor

from ...errors import MemberFailed, UnsupportedModel
from .context import Context, Piece
from .library import library
from .weights import Weights

# The largest distance that is put down to rounding, which depends on what else is fed: in products of quantised weights
# by some hundredths of the logits' spread. A wrong mask or position changes them by far more.
TOLERANCE = 0.2
_INSTEAD = "set backend to transformers, or choose a model whose layers are attention"


def refuse(where: str, architecture: str, weights: Weights) -> None:
    """Raises UnsupportedModel for a model that cannot be rolled back, or is none that is decoded token by token."""
    llama, handle = library(), weights.handle
    reasons = {
        "keeps a recurrent state, which llama.cpp cannot roll back": llama.llama_model_is_recurrent(handle)
        or llama.llama_model_is_hybrid(handle),
        "has an encoder, and is no causal language model": llama.llama_model_has_encoder(handle),
        "writes by diffusion, and not token by token": llama.llama_model_is_diffusion(handle),
    }
    for reason, is_so in reasons.items():
        if is_so:
            raise UnsupportedModel(f"{where} ({architecture}) {reason}; {_INSTEAD}")


def probe(where: str, architecture: str, context: Context) -> None:
    """Feed two texts in ragged batches, roll them back, and compare their rows with those of each fed at once.

    Raises UnsupportedModel where they differ, and notes what a token takes of the context's memory."""
    try:
        off = max(_distances(context))
    except MemberFailed as error:
        raise UnsupportedModel(
            f"{where} ({architecture}) cannot be decoded by llama.cpp: {error}; {_INSTEAD}"
        ) from error
    if not math.isfinite(off):
        raise UnsupportedModel(
            f"{where} ({architecture}) gives logits that are NaN or infinite; copy or download it again, or choose "
            "another model"
        )
    if not off < TOLERANCE:
        raise UnsupportedModel(
            f"{where} ({architecture}) gives other logits in ragged batches with rollback (off by {off:.2g} of their "
            f"spread, allowed {TOLERANCE:g}); {_INSTEAD}"
        )


def _distances(context: Context) -> list[float]:
    """Of each text: the mean distance of its rows from those of the whole fed at once, over their spread."""
    size = min(context.weights.num_entries, 1000)
    texts = [[(7 * i + 3) % size for i in range(11)], [(5 * i + 1) % size for i in range(6)]]
    whole = [_alone(context, text) for text in texts]
    sequences = [context.open() for _ in texts]
    try:
        return [_distance(*each) for each in zip(_in_turns(context, sequences, texts), whole, strict=True)]
    finally:
        context.measure_cells(sequences[0], len(texts[0]))
        for sequence in sequences:
            context.close(sequence)


def _in_turns(context: Context, sequences: list[int], texts: list[list[int]]) -> list[Tensor]:
    """The rows behind tokens 3 to the last, fed in a batch after a rollback, and the last by itself."""
    context.rows([Piece(each, 0, text[:4], 1) for each, text in zip(sequences, texts, strict=True)])
    context.rows([Piece(sequences[0], 4, [1, 1, 1], 1), Piece(sequences[1], 4, [2], 1)])
    for sequence in sequences:
        context.cut(sequence, 3)
    most = [Piece(each, 3, text[3:-1], len(text) - 4) for each, text in zip(sequences, texts, strict=True)]
    last = [Piece(each, len(text) - 1, text[-1:], 1) for each, text in zip(sequences, texts, strict=True)]
    return [torch.cat(rows) for rows in zip(context.rows(most), context.rows(last), strict=True)]


def _alone(context: Context, text: list[int]) -> Tensor:
    sequence = context.open()
    try:
        return context.rows([Piece(sequence, 0, text, len(text) - 3)])[0]
    finally:
        context.close(sequence)


def _distance(rows: Tensor, whole: Tensor) -> float:
    return float((rows - whole).abs().mean() / (whole.std() + 1e-9))
