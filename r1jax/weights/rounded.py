"""Rounding read weights, and refusing those that are no numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from r1jax.errors import CheckpointError

Wrong = Callable[[str, str, str], CheckpointError]
_BITS: dict[int, Any] = {2: np.uint16, 4: np.uint32}


def rounded(values: np.ndarray, dtype: Any, wrong: Wrong) -> np.ndarray:
    """Rounds to nearest, ties to even.

    Raises:
      CheckpointError: What `wrong` makes of a value that is no number, or too large.
    """
    with np.errstate(over="ignore"):  # told below, with its name
        band = values.astype(dtype, copy=False)
    if not is_finite(band):
        if not np.isfinite(values.astype(np.float32, copy=False)).all():
            raise no_number(wrong)
        raise wrong(
            f"a value is too large for {band.dtype}",
            "one such weight turns every answer into nonsense",
            "use bfloat16 or float32",
        )
    return band


def is_finite(values: np.ndarray) -> bool:
    """Tells whether no value is infinite or NaN, without a temporary of booleans."""
    kind = _BITS[values.itemsize]
    infinite = np.array(np.inf, values.dtype).view(kind)
    magnitudes = values.view(kind) & kind(np.iinfo(kind).max // 2)
    return bool(magnitudes.max(initial=0) < infinite)


def checked_fp8(values: np.ndarray, wrong: Wrong) -> np.ndarray:
    """Returns values of float8_e4m3fn, which has no infinity.

    Raises:
      CheckpointError: What `wrong` makes of a value that is no number.
    """
    if ((values.view(np.uint8) & 0x7F) == 0x7F).any():
        raise no_number(wrong)
    return values


def no_number(wrong: Wrong) -> CheckpointError:
    """Returns the error of a value that is no number."""
    return wrong(
        "a value is no number",
        "one such weight turns every answer into nonsense",
        "take the released file again",
    )
