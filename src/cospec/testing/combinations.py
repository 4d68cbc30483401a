"""`check_combination`: a combination gives normalised log-probabilities, of each position by itself."""

import math

import torch

from ..core.combine import Combination
from ..core.params import SamplingParams
from ..errors import InvalidCombination
from ..schedule.fixed import Fixed
from ..schedule.plain import Plain
from .enumeration import engine_law
from .schedules import ROUNDING
from .toys import ToyEnsemble, distance

VOCAB_SIZE, NUM_POSITIONS = 7, 5


def check_combination(combination: Combination, num_members: int) -> int:
    """Check a combination for so many members.

    Its rows are log-probabilities that sum to one, finite where some member allows a token; a position's result depends
    on that position alone, on no more of a member's row than its softmax, and is the same for equal rows; it refuses a
    number of members that it cannot combine by InvalidCombination; and the text of `plain` and of drafts verified
    against it follows it, by enumeration.

    Returns how many rows were compared. Raises AssertionError that says what is wrong.
    """
    assert not isinstance(combination, type), f"{combination!r} is a class; give an object"
    assert isinstance(combination, Combination), f"{combination!r} is no combination; it has name, check and log_probs"
    name = combination.name
    combination.check(num_members)
    try:
        combination.check(0)
    except InvalidCombination:
        pass
    except Exception as error:
        raise AssertionError(f"{name}: check(0) raised {error!r}; raise InvalidCombination") from error
    generator = torch.Generator().manual_seed(0)
    shape = (num_members, NUM_POSITIONS, VOCAB_SIZE)
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    log_r = combination.log_probs(logits)
    assert log_r.shape == shape[1:], f"{name}: log_probs gave {list(log_r.shape)}, want [positions, vocab] {shape[1:]}"
    total = log_r.exp().sum(-1)
    assert torch.allclose(total, torch.ones_like(total)), f"{name}: probabilities of a position sum to {total.tolist()}"
    for position in range(NUM_POSITIONS):
        alone = combination.log_probs(logits[:, position : position + 1])[0]
        assert torch.allclose(alone, log_r[position], atol=1e-9), f"{name}: a position depends on others beside it"
    shifted = combination.log_probs(logits + torch.randn((*shape[:2], 1), generator=generator, dtype=torch.float64))
    assert torch.allclose(shifted, log_r, atol=1e-6), f"{name}: a constant added to a member's logits changes r"
    _check_forbidden(combination, logits)
    for schedule in (Plain(), Fixed(lane=0, gamma=2)):
        ensemble = ToyEnsemble(combination=combination, num_members=num_members, params=SamplingParams(max_tokens=2))
        engine = ensemble.engine()
        engine.add(ensemble.request(schedule, "token"))
        off = distance(engine_law(engine), ensemble.law())
        assert off < ROUNDING, f"{name}: text under {schedule.name} is off r by {off:.3g}; log_probs must be pure"
    return NUM_POSITIONS * (3 + num_members)


def _check_forbidden(combination: Combination, logits: torch.Tensor) -> None:
    """Tokens with -inf in a member's row, as grammars and padded vocabularies have, must give no NaN."""
    for member in range(logits.shape[0]):
        forbidden = logits.clone()
        forbidden[member, :, 0] = -math.inf
        log_r = combination.log_probs(forbidden)
        assert not log_r.isnan().any(), f"{combination.name}: a token that member {member} forbids gives NaN"
