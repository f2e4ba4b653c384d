"""The fused multi-coil operator against deepinv's `MultiCoilMRI`: CPU seconds of each product and of a proximal point.

    OMP_NUM_THREADS=1 python benchmarks/mri_operator.py
    OMP_NUM_THREADS=1 python benchmarks/mri_operator.py --size 320 --coils 8 --rounds 21

Both run in turns in one process, round after round, on one thread, a product three times in a row as a solve would; a
ratio is deepinv's seconds over ours in the same round, and min, median and max are over the rounds. Maps are a birdcage
that is 0 outside an ellipse.

    A, A^H      products with y in the layout that deepinv's A returns, and `A^H, y contiguous` as after arithmetic
    A^H A       one call of each one's own `A_adjoint_A`
    bare        not ours but two transforms of each coil, with nothing between: what no `A^H A` of a mask of points
                can undercut with these transforms, so that its ratio is the largest there can be
    prox        argmin |y - A x|^2 / 2 sigma^2 + |x - v|^2 / 2 q^2 at q / sigma = 10, by as many steps of conjugate
                gradients as each needs for a relative residual of 1e-4: `Likelihood.prox` against `prox_l2`
    warm        the next proximal point, v and q having moved by a few per cent, from the last one
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from deepinv.physics import MultiCoilMRI
from torch import Tensor

from ambient_solve.likelihood import Likelihood
from ambient_solve.linalg.conjugate_gradient import WarmStart
from ambient_solve.operators.coils import birdcage
from ambient_solve.operators.kspace_masks import make_mask
from ambient_solve.operators.mri import MultiCoil, spans
from ambient_solve.priors.gaussian import GaussianPrior

SIGMA, Q, RESIDUAL, MOST = 0.01, 0.1, 1e-4, 300


class Case:
    """One mask: the two operators, and what is measured of them."""

    def __init__(self, kind: str, size: int, coils: int, acceleration: float) -> None:
        at, generator = torch.linspace(-1, 1, size), torch.Generator().manual_seed(0)
        maps = birdcage(coils, (size, size)) * (((at / 0.85) ** 2)[:, None] + (at / 0.7) ** 2 < 1)
        mask = make_mask(kind, (size, size), acceleration, acs=size // 12)
        self.ours = MultiCoil(maps, mask, SIGMA)
        self.theirs = MultiCoilMRI(mask=mask, coil_maps=maps[None], img_size=(size, size))
        self.x, self.v, move = (torch.randn(1, 2, size, size, generator=generator) for _ in range(3))
        self.next = self.v + 0.03 * move
        self.y = self.ours(self.x)
        self.prior = GaussianPrior.stationary(torch.zeros(2, size, size), torch.ones(size, size))
        self.warm = {"ours": WarmStart(), "theirs": None}

    def residual(self, x: Tensor, v: Tensor, q: float) -> float:
        """Of the normal equations `(I + q^2 / sigma^2 A'A) x = v + q^2 / sigma^2 A'y`, relative."""
        ratio = (q / SIGMA) ** 2
        right = v + ratio * self.theirs.A_adjoint(self.y)
        return float((right - x - ratio * self.theirs.A_adjoint_A(x)).norm() / right.norm())

    def likelihood(self, steps: int) -> Likelihood:
        """Whose iterative solves take `steps`."""
        return Likelihood(self.y, self.ours, self.prior, sigma_y=SIGMA, cg_iterations=steps)

    def theirs_normal(self) -> Tensor:
        """`A^H A x`."""
        return self.theirs.A_adjoint_A(self.x)

    def transforms(self) -> Tensor:
        """Of all coils, there and back, as many at a time as stay in the cache."""
        maps = self.ours.coil_maps[0]
        for part in spans(self.x, 0, len(maps), maps[0].numel()):
            last = torch.fft.fft2(torch.fft.fft2(maps[part]))
        return last

    def ours_prox(self, steps: int, v: Tensor, q: float, warm: Tensor | None = None) -> Callable[[], Tensor]:
        """Ready to run."""
        likelihood = self.likelihood(steps)
        return lambda: likelihood.prox(v, q, WarmStart(warm))

    def theirs_prox(self, steps: int, v: Tensor, q: float, init: Tensor | None = None) -> Callable[[], Tensor]:
        """`prox_l2` starts at v; the last point is a better start, which only its solver takes."""
        gamma = (q / SIGMA) ** 2
        if init is None:
            return lambda: self.theirs.prox_l2(v, self.y, gamma, max_iter=steps, tol=0.0)
        from deepinv.optim.linear import least_squares

        return lambda: least_squares(
            *(self.theirs.A, self.theirs.A_adjoint, self.y),
            **{"solver": "CG", "gamma": gamma, "z": v, "init": init, "max_iter": steps, "tol": 0.0},
            **{"ATA": self.theirs.A_adjoint_A, "parallel_dim": [0]},
        )

    def fewest(self, build: Callable[[int], Callable[[], Tensor]], v: Tensor, q: float) -> int:
        """Steps to the wanted residual."""
        few, many = 0, 8
        while many < MOST and self.residual(build(many)(), v, q) > RESIDUAL:
            few, many = many, 2 * many
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (few, middle) if self.residual(build(middle)(), v, q) <= RESIDUAL else (middle, many)
        return many

    def contests(self) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor], str]]:
        """By name: theirs, ours, and a remark."""
        strided, flat = self.theirs.A(self.x), self.theirs.A(self.x).contiguous()
        found = {
            "A": (lambda: self.theirs.A(self.x), lambda: self.ours.A(self.x), ""),
            "A^H": (lambda: self.theirs.A_adjoint(strided), lambda: self.ours.A_adjoint(strided), ""),
            "A^H, y contiguous": (lambda: self.theirs.A_adjoint(flat), lambda: self.ours.A_adjoint(flat), ""),
            "A^H A": (self.theirs_normal, lambda: self.ours.A_adjoint_A(self.x), ""),
        }
        if not self.ours.lines:
            found["bare"] = self.theirs_normal, self.transforms, ""
        for name, v, q in (("prox", self.v, Q), ("warm", self.next, 0.97 * Q)):
            start = None, None
            if name == "warm":
                last = found["prox"][0]()
                start = last, last - self.next
            theirs = self.fewest(lambda n, v=v, q=q, s=start[0]: self.theirs_prox(n, v, q, s), v, q)
            ours = self.fewest(lambda n, v=v, q=q, s=start[1]: self.ours_prox(n, v, q, s), v, q)
            one, other = self.theirs_prox(theirs, v, q, start[0]), self.ours_prox(ours, v, q, start[1])
            reached = self.residual(one(), v, q), self.residual(other(), v, q)
            remark = f"{theirs} and {ours} steps to residuals of {reached[0]:.1e} and {reached[1]:.1e}"
            found[name] = one, other, remark
        return found


def seconds(run: Callable[[], Tensor], calls: int) -> float:
    """CPU seconds of one of `calls` calls in a row."""
    start = time.process_time()
    for _ in range(calls):
        run()
    return (time.process_time() - start) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--coils", type=int, default=12)
    parser.add_argument("--acceleration", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--kinds", nargs="+", default=["random", "poisson"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for kind in args.kinds:
        case = Case(kind, args.size, args.coils, args.acceleration)
        print(f"\n{kind}, R = {args.acceleration:g}, {args.coils} coils, {args.size}x{args.size}")
        print(f"{'':18} {'deepinv ms':>10} {'ours ms':>8}   ratio: min, median, max")
        contests = case.contests()
        taken = {name: [] for name in contests}
        for round_ in range(-1, args.rounds):
            for name, (theirs, ours, _) in contests.items():
                if round_ % 5 and name in ("prox", "warm"):
                    continue
                pair = tuple(seconds(run, 1 if name in ("prox", "warm") else 3) for run in (theirs, ours))
                if round_ >= 0:
                    taken[name].append(pair)
        for name, pairs in taken.items():
            ratios = sorted(a / b for a, b in pairs)
            theirs, ours = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
            middle = statistics.median(ratios)
            print(f"{name:18} {theirs:10.1f} {ours:8.1f}   {ratios[0]:.1f}, {middle:.1f}, {ratios[-1]:.1f}", end="")
            print(f"   {contests[name][2]}")


if __name__ == "__main__":
    main()
