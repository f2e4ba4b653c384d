"""The law of the power spectra of photographs.

`SpectralLaw.fit` of 600 photographs of 600 classes of ImageNet that were reduced by two or more, a crop of 128 pixels
at random from each; these numbers are all that is taken from them. `python benchmarks/blind.py PACK.npz --fit` prints
such numbers for the middle of each picture of a pack.
"""

from __future__ import annotations

import torch

from ambient_solve.blind.law import SpectralLaw

DISCOUNT = 0.25
"""What the spectrum of a photograph counts, of what that of a stationary Gaussian would: of 30 photographs that are not
among the 600, blurred by known widths, the errors were 1.1 stated deviations with .3, and .8 with .1."""
MEAN = (-3.7016, -2.5367, -0.3602, -0.0415, -0.0217, 0.1534, -0.0027, 0.0127, -0.0053, 0.0696)
"""Of the coefficients of `spectrum.terms`."""
COVARIANCE = (
    (0.7812, 0.1046, -0.1296, -0.0009, -0.0074, -0.0169, 0.0083, 0.0130, -0.0062, -0.0026),
    (0.1046, 0.2326, -0.0268, -0.0333, -0.0084, -0.0025, 0.0125, 0.0053, -0.0050, -0.0026),
    (-0.1296, -0.0268, 0.1190, 0.0015, 0.0057, 0.0039, -0.0079, -0.0030, 0.0003, 0.0033),
    (-0.0009, -0.0333, 0.0015, 0.2291, 0.0080, -0.0122, -0.0417, -0.0046, 0.0119, -0.0017),
    (-0.0074, -0.0084, 0.0057, 0.0080, 0.1442, 0.0026, 0.0012, -0.0558, -0.0003, 0.0023),
    (-0.0169, -0.0025, 0.0039, -0.0122, 0.0026, 0.1318, 0.0024, -0.0019, -0.0043, 0.0355),
    (0.0083, 0.0125, -0.0079, -0.0417, 0.0012, 0.0024, 0.0670, -0.0037, -0.0058, 0.0011),
    (0.0130, 0.0053, -0.0030, -0.0046, -0.0558, -0.0019, -0.0037, 0.0366, -0.0002, -0.0010),
    (-0.0062, -0.0050, 0.0003, 0.0119, -0.0003, -0.0043, -0.0058, -0.0002, 0.0307, -0.0033),
    (-0.0026, -0.0026, 0.0033, -0.0017, 0.0023, 0.0355, 0.0011, -0.0010, -0.0033, 0.0317),
)
"""Of these."""
PHOTOGRAPHS = SpectralLaw(
    torch.tensor(MEAN, dtype=torch.float64), torch.tensor(COVARIANCE, dtype=torch.float64), DISCOUNT
)
"""The law of photographs."""
