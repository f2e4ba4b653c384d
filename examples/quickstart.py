"""The quickstart of the README: hide 70 % of a photograph, restore it, and see how sure the restoration is."""

import torch
from skimage.data import astronaut

from ambient_solve import Solver, load_prior, operators

x = torch.tensor(astronaut()[:256, 96:352] / 255).permute(2, 0, 1)[None].float()  # (1, 3, H, W) in [0, 1]
op = operators.inpaint_random(x.shape[1:], missing=0.7, sigma=0.02)  # any deepinv physics
r = Solver(load_prior("photos")).solve(op(x), op, n_samples=4, progress=True)
r.save("out")
error, claimed = (r.mean - x).square().mean().sqrt(), r.std.square().mean().sqrt()
print(f"error {error:.3f}, claimed {claimed:.3f}, misfit {r.chi2.mean():.2f}")
