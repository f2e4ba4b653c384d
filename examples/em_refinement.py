"""Learn how photographs look when three pixels in four of every one were never seen, by iterations of EM.

    python examples/em_refinement.py

Expectation: the holes are filled with samples of the posterior under the prior of the iteration before. Maximisation:
the next prior is learned from the filled pictures (DiEM, arXiv 2405.13712). Here the priors are Gaussians of patches,
whose second step is a mean and a covariance; trainers/em.py does the same with networks, for pictures of any size:

    python trainers/em.py --config trainers/configs/em_masked.yaml --data-root DATA --out runs/em

Another photograph, damaged alike, says how good the priors are. Writes out/em; ten seconds on one core.
"""

import dataclasses

import torch
from skimage import color, data

from ambient_solve import GaussianPrior, Solver, operators

SIDE = 8
MISSING = 0.75
SIGMA = 0.02
ITERATIONS = 16


def patches(picture):
    """Squares of a picture (H, W) in [0, 1], (n, 1, SIDE, SIDE)."""
    tiles = torch.tensor(picture).float().unfold(0, SIDE, SIDE).unfold(1, SIDE, SIDE)
    return tiles.reshape(-1, 1, SIDE, SIDE)


def measured(x, seed):
    """What is seen of `x`, and the operator; each patch has holes of its own."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(x.shape, generator=generator) >= MISSING).float()
    y = mask * (x + SIGMA * torch.randn(x.shape, generator=generator))
    return y, operators.inpaint(mask, SIGMA, channels=1), mask


def fitted(z):
    """The Gaussian of `z` (n, 1, SIDE, SIDE)."""
    return GaussianPrior(z.mean(0), torch.cov(z.flatten(1).T) + 1e-5 * torch.eye(SIDE**2))


# 1. All that is known: a quarter of the pixels of every patch. Iteration 0 knows mean and variance, no structure.
every = patches(data.camera() / 255.0)
y, op, mask = measured(every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:800]], seed=1)
mean = y.sum() / mask.sum()
variance = (mask * (y - mean) ** 2).sum() / mask.sum()
prior = GaussianPrior(torch.full((1, SIDE, SIDE), float(mean)), variance * torch.eye(SIDE**2))

# 2. A photograph that no iteration sees, and the prior that clean patches would have given.
face = color.rgb2gray(data.astronaut())[64:128, 192:256]
x = patches(face)
y_new, op_new, mask_new = measured(x, seed=2)


def restored(prior):
    """Posterior samples of the photograph, and the error and the claimed standard deviation of what was not seen."""
    r = Solver(prior, "mmps", steps=20).solve(y_new, op_new, n_samples=4)
    hidden = 1 - mask_new
    error, std = (r.mean - x).square(), r.std.square()
    return r, *(float((hidden * v).sum() / hidden.sum()) ** 0.5 for v in (error, std))


# 3. Iterations.
for iteration in range(ITERATIONS + 1):
    if iteration % 4 == 0:
        r, error, std = restored(prior)
        print(f"iteration {iteration}: error of what was not seen {error:.3f}, claimed std {std:.3f}")
    if iteration < ITERATIONS:
        seeds = range(iteration * len(y), (iteration + 1) * len(y))
        prior = fitted(Solver(prior, "mmps", steps=15).solve(y, op, n_samples=1, seed=seeds).samples[:, 0])
_, error, std = restored(fitted(every))
print(f"learned from clean patches: error {error:.3f}, claimed std {std:.3f}")

# 4. The photograph as one picture again.
tiles = r.samples.reshape(len(face) // SIDE, -1, *r.samples.shape[1:])  # (down, across, S, 1, SIDE, SIDE)
whole = tiles.permute(2, 3, 0, 4, 1, 5).reshape(1, -1, 1, *face.shape)
dataclasses.replace(r, samples=whole, chi2=r.chi2.mean(0, keepdim=True)).save("out/em")
