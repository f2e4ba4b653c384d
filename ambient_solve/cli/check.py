"""`ambient-solve check`: is an algorithm honest? One page of numbers, one figure, one sentence.

Without a prior it is held against posteriors that are known: Gaussians under four operators, and mixtures. With a prior
the truth is drawn from that prior, which makes ranks and coverage exact tests as far as the prior's sampler is.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ambient_solve.cli.flags import knob_values
from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.evaluate.verdict import ALPHA, MIXTURE, Found, finite, p_words
from ambient_solve.figures.charts import SIDE, bars, curve, ratio_bars
from ambient_solve.figures.sheet import Row, Tile, contact_sheet
from ambient_solve.progress import progress_bar
from ambient_solve.saving import check_folder

if TYPE_CHECKING:
    from deepinv.physics import Physics
    from PIL import Image
    from rich.table import Table

    from ambient_solve.evaluate.denoising import DenoisingCheck
    from ambient_solve.evaluate.simulation import Calibration
    from ambient_solve.priors.base import Prior

MIXTURES = ((8, 1), (8, 4), (80, 4))
"""Mixture problems: (dimension of the picture, dimension of the measurement)."""
SEEDS = 2
"""Problems of each size of mixture."""
OPERATORS = ("inpaint", "box", "gaussian-blur", "motion-blur", "super-resolution", "denoise", "jpeg")
"""Operators that an algorithm can be checked on with a prior of its own."""
LEAST = 10
"""Fewest truths of a row of the table."""
SIZE = 32
"""Side of the pictures where the prior takes any, in pixels."""
PAGE = 132
"""Width of the table, in characters."""
FIGURE = "check.png"
"""File name of the figure."""
TRUTHS = {False: 16, True: 2}
"""Measurements that the draws on a Gaussian are shared by; fewer where the samples of one interact."""


@dataclass(frozen=True)
class Check:
    """Say whether an algorithm's samples are those of the posterior: bias, variance, ranks, coverage, misfit, cost.

    Without --prior this needs no picture and no network: the posteriors are known. A knob of the algorithm is given as
    --KNOB VALUE, such as --steps 20. The figure goes to OUT/check.png.
    """

    algorithm: str = "auto"
    """auto, or one of those that `ambient-solve info` lists."""
    prior: Annotated[str, tyro.conf.arg(help_behavior_hint="")] = ""
    """Embedded prior, folder, or hub id (owner/name); without one, priors whose posterior is known."""
    operator: Annotated[str, tyro.conf.arg(metavar="|".join(OPERATORS), help_behavior_hint="")] = ""
    """What is measured of the pictures that --prior draws; inpaint (7 of 10 pixels missing) by default."""
    sigma: float = 0.0
    """Noise of that measurement, where pixel values go from 0 to 1; 0 is the operator's own default."""
    size: int = 0
    """Side of the pictures that --prior draws; 0 is its own, or 32 where any will do."""
    problems: int = 0
    """How many truths are drawn for each row of the table, at least 10; 0 is 200, or 20 with --prior."""
    samples: int = 19
    """Posterior samples of each; coverage at 90 % needs 19."""
    draws: int = 500
    """Samples of the distances from the known posteriors; 0 leaves these out."""
    particles: int = 16
    """For an algorithm whose samples interact: each sample is one of so many, which makes them independent."""
    batch: int = 0
    """Measurements solved together; 0 is 100, or 4 with --prior."""
    out: Path = Path("check")
    """Folder of the figure."""
    seed: int = 0
    """Decides the truths, the noise and the samples."""
    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda")] = "auto"
    """auto takes the graphics card where there is one."""
    json: bool = False
    """Print one JSON object, and nothing else."""

    def run(self, texts: Mapping[str, str] | None = None) -> int:
        """Check with the knobs `texts`, as they were typed."""
        options = knob_values(dict(texts or {}), self.algorithm, [f.name for f in dataclasses.fields(self)])
        self._refuse()
        found = self._trained(options) if self.prior else self._analytic(options)
        self.out.mkdir(parents=True, exist_ok=True)
        figure(found).save(self.out / FIGURE)
        if self.json:
            print(json.dumps(finite(found.record()), allow_nan=False))
        else:
            print_page(found)
            print(f"Figure: {self.out / FIGURE}")
        return 0

    def _refuse(self) -> None:
        """Raise for what cannot be checked, before anything is drawn."""
        for name, least, zero in (("problems", LEAST, True), ("samples", 3, False), ("draws", 20, True)):
            value = getattr(self, name)
            if value < least and not (zero and value == 0):
                raise AmbientSolveError(f"--{name} {value} was given, at least {least} was expected.")
        for name, least in (("size", 0), ("batch", 0), ("particles", 2), ("seed", 0), ("sigma", 0)):
            if not getattr(self, name) >= least:
                raise AmbientSolveError(f"--{name} {getattr(self, name)} was given, at least {least} was expected.")
        if self.operator and self.operator not in OPERATORS:
            raise AmbientSolveError(f"There is no operator {self.operator!r}. {suggestion(self.operator, OPERATORS)}")
        only = [name for name in ("operator", "sigma", "size") if getattr(self, name) and not self.prior]
        if only:
            raise AmbientSolveError(
                f"--{only[0]} belongs to a check of a trained prior: add --prior photos, or leave it out."
            )
        check_folder(self.out)

    def _analytic(self, options: Mapping[str, Any]) -> Found:
        """Against the posteriors of Gaussians and mixtures."""
        from ambient_solve.algorithms.auto import exact
        from ambient_solve.evaluate.distances import mcgdiff_problem
        from ambient_solve.evaluate.exactness import (
            GAUSSIAN,
            gaussian_operator,
            gaussian_prior,
            matrix_operator,
            on_gaussian,
            on_mixture,
        )
        from ambient_solve.solver import make_solver

        prior = gaussian_prior()
        # What "auto" takes for linear operators and exact priors, where it draws no particles.
        algorithm = make_solver(prior, self.algorithm, options).algorithm
        algorithm = algorithm or exact(options)
        mixture = mcgdiff_problem(8, 2, self.seed)
        sets = {name: (prior, gaussian_operator(name)) for name in GAUSSIAN}
        if algorithm.interacting:
            # Independent particle sets cost their number of particles times as much.
            sets = {"super-resolution": sets["super-resolution"]}
        sets[MIXTURE] = (mixture.prior, matrix_operator(mixture.A, mixture.sigma_y, (8,)))
        problems = self.problems or (40 if algorithm.interacting else 200)
        found = Found(algorithm.name, "Gaussians and mixtures", self.samples)
        cells = [*GAUSSIAN, *MIXTURES] if self.draws else []
        with self._bar(len(sets) * problems + len(cells)) as bar:
            for name, (prior, op) in sets.items():
                found.add(name, lambda p=prior, o=op: self._calibrate(algorithm, {}, p, o, problems, bar.update))
            seeds = range(self.seed, self.seed + SEEDS)
            # Particles of one measurement share their fate: few measurements, many particles.
            truths = min(TRUTHS[algorithm.interacting], max(2, self.draws // 2))
            sizes = {"n": self.draws // truths, "problems": truths, "first": truths * self.seed, "seed": self.seed}
            for cell in cells:
                if cell in GAUSSIAN:
                    found.measure(cell, lambda c=cell: on_gaussian(algorithm, c, **sizes), found.gaussian)
                else:
                    found.measure(cell, lambda c=cell: on_mixture(algorithm, *c, seeds, self.draws), found.mixture)
                bar.update(1)
        if not found.sets:
            raise AmbientSolveError(next(iter(found.refused.values())))
        return found

    def _trained(self, options: Mapping[str, Any]) -> Found:
        """Against truths that the prior itself draws."""
        from ambient_solve.priors.ambient import AmbientPrior
        from ambient_solve.priors.load import named_prior
        from ambient_solve.solver import make_solver

        prior, operator = named_prior(self.prior, self.device), self.operator or OPERATORS[0]
        make_solver(prior, self.algorithm, options)
        if len(prior.shape) != 3:
            raise AmbientSolveError(f"{self.prior} does not make pictures (C, H, W), which --operator measures.")
        size = self.size or (SIZE if -1 in prior.shape else None)
        side = prior.shape[1:] if size is None else (size, size)
        op = build_operator(operator, (prior.shape[0], *side), self.sigma).to(prior.device)
        problems = self.problems or 20
        found = Found(self.algorithm, self.prior, self.samples)
        if isinstance(prior, AmbientPrior):
            found.notes.append("this prior is mask-conditioned; its own draws, the truths here, vary too little")
        with self._bar(problems) as bar:
            found.sets[operator] = self._calibrate(self.algorithm, options, prior, op, problems, bar.update, size)
        found.denoising = self._denoising(prior, options, size)
        return found

    def _denoising(self, prior: Prior, options: Mapping[str, Any], size: int | None) -> DenoisingCheck | None:
        """Samples beside the posterior mean; None where that is not one call of the prior."""
        from ambient_solve.evaluate.denoising import check_denoising
        from ambient_solve.sampling import generate
        from ambient_solve.solver import make_solver

        if prior.affine is None:
            return None
        images = prior.decode(generate(prior, LEAST, size=size, seed=self.seed + 1, progress=False))
        solver = make_solver(prior, self.algorithm, options)
        return check_denoising(solver, prior, images, n_samples=min(self.samples, 8), seed=self.seed)

    def _calibrate(
        self,
        algorithm: Any,
        options: Mapping[str, Any],
        prior: Prior,
        op: Physics,
        problems: int,
        tick: Callable[[int], Any],
        size: int | None = None,
    ) -> Calibration:
        from ambient_solve.evaluate.simulation import check_sampler
        from ambient_solve.solver import make_solver

        counts = {"problems": problems, "n_samples": self.samples, "particles": self.particles, "seed": self.seed}
        batch = self.batch or (4 if self.prior else 100)
        solver = make_solver(prior, algorithm, options)
        return check_sampler(solver, prior, op, size=size, batch=batch, tick=tick, **counts)

    def _bar(self, total: int) -> Any:
        return progress_bar(None, "check", show=False if self.json else None, total=total)


def build_operator(name: str, size: tuple[int, int, int], sigma: float) -> Physics:
    """An operator to check an algorithm on.

    Args:
        name: One of `OPERATORS`.
        size: (C, H, W) of the pictures.
        sigma: Noise level; 0 takes the builder's own default.

    Returns:
        The operator.
    """
    from ambient_solve.operators import BUILDERS

    builder = BUILDERS["random" if name == "inpaint" else name]
    return builder(size, **({"sigma": sigma} if sigma else {}))


def print_page(found: Found) -> None:
    """The tables and the verdict."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=PAGE)
    title = f"{found.algorithm} on {found.prior}"
    if found.gaussian:
        rows = Table("Gaussian", title="Distance from the known posterior", title_justify="left", box=None)
        _columns(rows, "bias", "variance", "distance / floor")
        for name, e in found.gaussian.items():
            numbers = (e.bias, e.ratio.value, e.distance.value / e.floor.value)
            rows.add_row(name, *(f"{number:.2f}" for number in numbers))
        console.print(rows)
    if found.mixture:
        rows = Table("mixture", box=None)
        _columns(rows, "distance", "floor")
        for (d, dy), (distance, floor) in found.mixture.items():
            rows.add_row(f"{dy} of {d} measured", f"{distance:.2f}", f"{floor:.2f}")
        console.print(rows)
    first = next(iter(found.sets.values()))
    tests = list(first.p_values)
    rows = Table("calibration", title=f"{title}: p-values, then coverage and cost", title_justify="left", box=None)
    _columns(rows, *tests, "50 %", "90 %", "V/B", "misfit", "calls", "vjps")
    for name, c in found.sets.items():
        held = ["-" if c.coverage.get(level) is None else f"{100 * c.coverage[level]:.0f}" for level in (0.5, 0.9)]
        cost = ["-" if n is None else str(n) for n in (c.network_calls, c.vjps)]
        p_values = [p_words(c.p_values[test]) for test in tests]
        rows.add_row(name, *p_values, *held, f"{c.variance_ratio:.2f}", f"{c.chi2:.2f}", *cost)
    console.print(rows)
    if found.denoising is not None:
        d = found.denoising
        print(
            f"Denoising: the squared distance of the mean of {d.n_samples} samples from the posterior mean, one call "
            f"of the prior, is {d.excess:.2g} times what their number explains; V/B {d.ratio:.2f}."
        )
    for name, reason in found.refused.items():
        print(f"Not checked, {name}: {reason}")
    for note in found.notes:
        print(f"Note: {note}.")
    print(f"Verdict: {found.verdict}.")


def _columns(rows: Table, *headings: str) -> None:
    for heading in headings:
        rows.add_column(heading, justify="right", no_wrap=True)


def figure(found: Found) -> Image.Image:
    """The figure: a row for each problem, with rank histograms, a coverage curve and the variance along each axis."""
    from ambient_solve.evaluate.calibration import histogram

    first = next(iter(found.sets.values()))
    columns, rows = [*first.ranks, "coverage"] + (["variance / exact"] if first.exact else []), []
    for name, c in found.sets.items():
        tiles = [
            Tile(
                bars(histogram(ranks, c.n_samples).numpy(), c.p_values[key] < ALPHA), f"p = {p_words(c.p_values[key])}"
            )
            for key, ranks in c.ranks.items()
        ]
        tiles.append(Tile(curve(c.coverage), "" if 0.9 not in c.coverage else f"{100 * c.coverage[0.9]:.0f} % in 90 %"))
        if c.exact is not None:
            low, high = float(c.exact.ratios.min()), float(c.exact.ratios.max())
            tiles.append(Tile(ratio_bars(c.exact.ratios.numpy()), f"{low:.2g} to {high:.2g}"))
        note = f"{c.problems} problems, V/B {c.variance_ratio:.2f}, misfit {c.chi2:.2f} (1 is right)"
        rows.append(Row(name, note, tiles))
    return contact_sheet(f"{found.algorithm} on {found.prior}: ranks of the truth", columns, rows, side=SIDE)
