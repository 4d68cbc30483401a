"""Numbers that compiled loops compute."""

import math
from typing import Any

import numpy as np

from .pool import inlined

# Sums may be taken in any order that the loop's length decides; NaN stays.
SUMMED = {"reassoc", "contract", "nsz"}
# 2^f for f in (-1, 0], from f^0 on, to 8e-8. Nothing below 2^-126, the least normal number, is told from 0.
_C0, _C1, _C2, _C3, _C4, _C5 = map(
    np.float32, (0.9999999251, 0.6931422525, 0.2401721889, 0.05527972159, 0.00918861064, 9.387879139e-4)
)
_LOWEST, _BIAS, _MANTISSA, _LOG2_E = np.float32(-126), np.int32(127), np.int32(23), np.float32(math.log2(math.e))


@inlined(fastmath={"contract"})
def exp(x: Any) -> Any:
    """exp of a float32 up to 0, to 3e-7 of it."""
    power = x * _LOG2_E
    power = _LOWEST if power < _LOWEST else power
    whole = np.int32(power)
    rest = power - np.float32(whole)
    of_rest = ((((_C5 * rest + _C4) * rest + _C3) * rest + _C2) * rest + _C1) * rest + _C0
    return of_rest * np.int32((whole + _BIAS) << _MANTISSA).view(np.float32)
