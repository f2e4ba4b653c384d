"""The quickstart of the README: hide 70 % of a photograph, restore it, and see how sure the restoration is."""

import torch
from skimage.data import astronaut

from ambient_solve import Solver, load_prior, operators

x = torch.tensor(astronaut()[:256:2, 96:352:2] / 255).permute(2, 0, 1)[None].float()  # (1, 3, H, W) in [0, 1]
op = operators.inpaint_random(x.shape[1:], missing=0.7, sigma=0.02)  # any deepinv physics
prior = load_prior("photos", device="cuda" if torch.cuda.is_available() else "cpu")  # a GPU where there is one
y = op(x)
r = Solver(prior).solve(y, op, n_samples=4)
r.save("out")  # r.mean, r.std (how sure), r.samples, r.chi2 (data misfit, 1 is right); PNGs and safetensors
error, claimed = (r.mean.cpu() - x).square().mean().sqrt(), r.std.square().mean().sqrt()
print(f"error {error:.3f}, claimed {claimed:.3f}, misfit {r.chi2.mean():.2f}")
