"""Whether samples explain their measurement as well as its noise allows, and no better: said once a call."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ambient_solve.errors import MisfitWarning

RANGE = "chi2_range"
"""Where a run hands on the least and the largest misfit that need no word, (B,) each."""


def check_misfit(chi2: Tensor, said: dict[str, Any]) -> None:
    """Warn where the mean misfit of a measurement is outside of its range, and keep the words as "misfit".

    Args:
        chi2: Mean misfit of each measurement, (B,); 1 is right.
        said: Holds `RANGE`, which is taken out; the words are put in.
    """
    low, high = said.pop(RANGE)
    wrong = (chi2 < low) | (chi2 > high)
    if not bool(wrong.any()):
        return
    worst = int(torch.where(wrong, chi2.log().abs(), -1).argmax())
    value, count = float(chi2[worst]), int(wrong.sum())
    which = f" of {count} of {len(chi2)} measurements" if len(chi2) > 1 else ""
    if value > 1:
        words = (
            f"The samples{which} miss what was measured: the misfit chi2 is {value:.3g}, 1 is right. Look whether y, "
            "op and the noise level belong together, in values and units; if they do, take more steps, or 'proximal'."
        )
    else:
        words = (
            f"The samples{which} fit the noise, too: the misfit chi2 is {value:.3g}, 1 is right. The noise level may "
            "be stated too high; 'proximal', 'ddnm' and 'reddiff' do so where the noise is low."
        )
    said["misfit"] = words
    warnings.warn(words, MisfitWarning, stacklevel=3)
