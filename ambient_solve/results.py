"""`Restoration`: the samples, how sure they are, how well they fit, and how they were made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.figures import restoration as figure
from ambient_solve.moments import Running
from ambient_solve.saving import save_png
from ambient_solve.verdict import evidence
from ambient_solve.verdict.evidence import Evidence
from ambient_solve.verdict.judge import Verdict, judge

FAR = (0.5, 2.0)
"""A misfit outside of this range is far from 1."""


@dataclass(frozen=True)
class Restoration:
    """Posterior samples of a batch of measurements, with their misfit and a record of the run: what `solve` returns.

    Attributes:
        samples: Posterior samples, (B, S, C, *spatial), float32.
        chi2: Data misfit of each sample, (B, S): the mean squared residual in units of the measurement noise. 1 is
            right; well above, the sample does not explain the measurement; well below, it has fitted the noise.
        network_calls: Forward passes through the network per sample.
        vjps: Backward passes per sample.
        seconds: Wall time of the sampling.
        settings: Algorithm, knobs, seed and versions; with these the run can be repeated.
        evidence: What the samples show of whether the operator and its noise were stated rightly; see `verdict`.
    """

    samples: Tensor
    chi2: Tensor
    network_calls: int
    vjps: int
    seconds: float
    settings: dict[str, Any]
    evidence: Evidence | None = None

    @property
    def mean(self) -> Tensor:
        """Posterior mean, (B, C, *spatial): the best guess in squared error."""
        return self.samples.mean(1)

    @property
    def std(self) -> Tensor | None:
        """Posterior standard deviation of each pixel, (B, C, *spatial); None with one sample, which has none."""
        return self.samples.std(1) if self.samples.shape[1] > 1 else None

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether the operator and the noise level that were stated fit, for each measurement."""
        asked = self.settings.get("operator", ""), self.settings.get("algorithm", "")
        return tuple(judge(chi2, self.evidence, b, *asked) for b, chi2 in enumerate(self.chi2.tolist()))

    @property
    def verdict(self) -> Verdict:
        """The verdict on the measurement that fits worst."""
        return max(self.verdicts, key=lambda v: v.badness)

    def quantile(self, p: float) -> Tensor:
        """The `p`-quantile of each pixel over the samples.

        Args:
            p: Probability, 0 to 1; .5 gives the median.

        Returns:
            (B, C, *spatial).
        """
        return self.samples.quantile(p, dim=1)

    def plot(
        self, *, measured: Tensor | None = None, truth: Tensor | None = None, samples: int = 2, side: int = 192
    ) -> Image.Image:
        """Draw mean, standard deviation and samples of the first four measurements, as a picture that notebooks show.

        Args:
            measured: What was measured, (B, C, H, W) of any size; drawn first if given.
            truth: What was to be found, (B, C, *spatial), if it is known.
            samples: How many samples are drawn.
            side: Of each picture, in pixels.

        Returns:
            A Pillow image; `.save("figure.png")` writes it. Of 2 channels the magnitude is drawn, of videos and volumes
            the middle slice.

        Raises:
            AmbientSolveError: these are no pictures.
        """
        shown = figure.columns(self.mean, self.std, list(self.samples[:, :samples].unbind(1)), measured, truth)
        return figure.draw_result(_title(self.settings), shown, _misfits(self.chi2.mean(1)), side)

    def __repr__(self) -> str:
        return _words(self, tuple(self.samples.shape), self.mean, self.std)

    def _repr_html_(self) -> str:
        return figure.as_html(repr(self), self.plot() if self.samples.ndim > 4 else None)

    def save(self, folder: str | Path, profile: bytes = b"") -> list[Path]:
        """Write samples.safetensors, settings.json and, for 1 or 3 channels, PNGs of mean, std and samples.

        In the PNG of std, white is its own largest value. Each PNG carries the settings in its text chunk.

        Args:
            folder: Where; it is made if it is not there.
            profile: Color profile (ICC) that the mean and the samples get; empty for sRGB.

        Returns:
            The paths written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        record = {**self.settings, "seconds": self.seconds, "network_calls": self.network_calls, "vjps": self.vjps}
        record |= {"chi2": self.chi2.tolist(), "verdict": self.verdict.record()}
        text = json.dumps(record, indent=2, default=str)
        written = [folder / "samples.safetensors", folder / "settings.json"]
        save_file({"samples": self.samples.contiguous().cpu(), "chi2": self.chi2.contiguous().cpu()}, written[0])
        written[1].write_text(text + "\n")
        if self.samples.ndim != 5 or self.samples.shape[2] not in (1, 3):
            return written
        std = self.std
        for b in range(len(self.samples)):
            prefix = f"{b:03d}-" if len(self.samples) > 1 else ""
            pictures = {"mean": self.mean[b], **{f"sample-{s}": x for s, x in enumerate(self.samples[b])}}
            if std is not None:
                pictures["std"] = std[b] / std[b].max().clamp_min(1e-12)
            for name, picture in pictures.items():
                written.append(folder / f"{prefix}{name}.png")
                save_png(picture, written[-1], text, b"" if name == "std" else profile)
        return written


def join(parts: list[Restoration]) -> Restoration:
    """The restoration whose samples were drawn in `parts`, one after another."""
    first = parts[0]
    samples, chi2 = (torch.cat([getattr(p, name) for p in parts], 1) for name in ("samples", "chi2"))
    settings = {**first.settings, "n_samples": samples.shape[1]}
    # Passes may differ from part to part where an algorithm looks at its samples: what no sample exceeds is reported.
    passes = {name: max(getattr(p, name) for p in parts) for name in ("network_calls", "vjps")}
    seconds = sum(p.seconds for p in parts)
    shown = evidence.joined_evidence([p.evidence for p in parts])
    whole = dataclasses.replace(first, samples=samples, chi2=chi2, seconds=seconds, settings=settings, **passes)
    return dataclasses.replace(whole, evidence=shown)


@dataclass(frozen=True)
class Summary:
    """Statistics of many posterior samples, a `Restoration` without its samples: what `summarize` returns.

    Attributes:
        mean: Posterior mean, (B, C, *spatial).
        std: Posterior standard deviation of each pixel, (B, C, *spatial); None with one sample, which has none.
        sample: The first sample, (B, C, *spatial), to look at.
        quantiles: (Q, B, C, *spatial) at the `probabilities`; None where there are none.
        probabilities: Those of the quantiles, increasing, each between 0 and 1.
        chi2: Mean data misfit of the samples, (B,); 1 is right.
        n_samples: How many there were.
        network_calls: Forward passes through the network per sample.
        vjps: Backward passes per sample.
        seconds: Wall time of the sampling.
        settings: As `Restoration.settings`.
    """

    mean: Tensor
    std: Tensor | None
    quantiles: Tensor | None
    probabilities: tuple[float, ...]
    chi2: Tensor
    sample: Tensor
    n_samples: int
    network_calls: int
    vjps: int
    seconds: float
    settings: dict[str, Any]

    def quantile(self, p: float) -> Tensor:
        """The `p`-quantile of each pixel over the samples.

        Args:
            p: One of the `probabilities`, which were chosen before the run.

        Returns:
            (B, C, *spatial).

        Raises:
            AmbientSolveError: `p` is none of them.
        """
        if self.quantiles is None or p not in self.probabilities:
            known = ", ".join(map(str, self.probabilities)) or "none"
            raise AmbientSolveError(
                f"The quantile {p!r} was not followed, known: {known}. Pass quantiles=({p!r}, ...) to Solver.summarize."
            )
        return self.quantiles[self.probabilities.index(p)]

    def plot(self, *, measured: Tensor | None = None, truth: Tensor | None = None, side: int = 192) -> Image.Image:
        """Draw mean, standard deviation and the first sample: see `Restoration.plot`.

        Args:
            measured: What was measured, (B, C, H, W) of any size; drawn first if given.
            truth: What was to be found, (B, C, *spatial), if it is known.
            side: Of each picture, in pixels.

        Returns:
            A Pillow image.

        Raises:
            AmbientSolveError: these are no pictures.
        """
        shown = figure.columns(self.mean, self.std, [self.sample], measured, truth)
        return figure.draw_result(_title(self.settings), shown, _misfits(self.chi2), side)

    def __repr__(self) -> str:
        return _words(self, (len(self.mean), self.n_samples, *self.mean.shape[1:]), self.mean, self.std)

    def _repr_html_(self) -> str:
        return figure.as_html(repr(self), self.plot() if self.mean.ndim > 3 else None)

    def save(self, folder: str | Path) -> list[Path]:
        """Write summary.safetensors, settings.json and, for 1 or 3 channels, PNGs of mean, std and one sample.

        Otherwise as `Restoration.save`: it takes the folder, and returns the paths written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        plain = ("probabilities", "n_samples", "network_calls", "vjps", "seconds")
        record = {**self.settings, **{name: getattr(self, name) for name in plain}, "chi2": self.chi2.tolist()}
        text = json.dumps(record, indent=2, default=str)
        tensors = {name: getattr(self, name) for name in ("mean", "std", "quantiles", "chi2", "sample")}
        written = [folder / "summary.safetensors", folder / "settings.json"]
        save_file({k: v.contiguous().cpu() for k, v in tensors.items() if v is not None}, written[0])
        written[1].write_text(text + "\n")
        if self.mean.ndim != 4 or self.mean.shape[1] not in (1, 3):
            return written
        for b in range(len(self.mean)):
            prefix = f"{b:03d}-" if len(self.mean) > 1 else ""
            pictures = {"mean": self.mean[b], "sample": self.sample[b]}
            if self.std is not None:
                pictures["std"] = self.std[b] / self.std[b].max().clamp_min(1e-12)
            for name, picture in pictures.items():
                written.append(folder / f"{prefix}{name}.png")
                save_png(picture, written[-1], text)
        return written


def summarize(parts: Iterable[Restoration], probabilities: Sequence[float]) -> Summary:
    """Fold the samples of restorations, drawn one after another, into a `Summary`.

    Args:
        parts: Restorations of the same measurements; no part is kept.
        probabilities: Of the quantiles, rising, each between 0 and 1.

    Returns:
        The summary of all samples.
    """
    images, misfits = Running(probabilities), Running()
    seconds, calls, vjps = 0.0, 0, 0
    for part in parts:
        if not images.count:
            sample, settings = part.samples[:, 0].clone(), part.settings  # a view would keep the others
        images.add(part.samples)
        misfits.add(part.chi2)
        seconds, calls, vjps = seconds + part.seconds, max(calls, part.network_calls), max(vjps, part.vjps)
        del part  # not while the next is drawn
    return Summary(
        mean=images.mean,
        std=images.std,
        quantiles=images.quantiles,
        probabilities=images.probabilities,
        chi2=misfits.mean,
        sample=sample,
        n_samples=images.count,
        network_calls=calls,
        vjps=vjps,
        seconds=seconds,
        settings={**settings, "n_samples": images.count},
    )


def _title(settings: dict[str, Any]) -> str:
    return f"{settings.get('algorithm', 'samples')}, {settings.get('operator', 'an operator')}"


def _misfits(chi2: Tensor) -> list[str]:
    return [f"misfit {value:.2f} (1 is right)" for value in chi2.tolist()]


def _words(result: Restoration | Summary, shape: tuple[int, ...], mean: Tensor, std: Tensor | None) -> str:
    """Three lines: what it holds and how it was made, how well it fits and how sure it is, what may be done with it."""
    images, samples, *size = shape
    made, chi2 = result.settings, float(result.chi2.float().mean())
    what = f"{samples} sample{'s' * (samples > 1)} of {images} picture{'s' * (images > 1)} {' x '.join(map(str, size))}"
    how = f"{made.get('algorithm', '?')}, {made.get('steps', '?')} levels, {result.seconds:.3g} s"
    how += f", operator {made.get('operator', '?')}"
    drawn = f" ({min(images, figure.MOST)} of {images} drawn)" if images > figure.MOST else ""
    far = "" if FAR[0] <= chi2 <= FAR[1] else ", far from 1: the operator, its noise or the prior does not fit"
    if std is not None:
        sure = f"standard deviation {float(std.square().mean().sqrt()):.2g}, at most {float(std.max()):.2g}"
    else:
        sure = "one sample shows no standard deviation"
    return (
        f"{type(result).__name__}: {what}{drawn} by {how}\n"
        f"misfit {chi2:.2f} (1 is right){far}; {sure}\n"
        f".mean .std .{'samples' if isinstance(result, Restoration) else 'sample'} .chi2 .settings; .plot() draws, "
        ".save(folder) writes"
    )
