"""`Restoration`: the samples, how sure they are, how well they fit, and how they were made."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class Restoration:
    """What `Solver.solve` returns.

    Attributes:
        samples: Posterior samples, (B, S, C, *spatial), float32.
        chi2: Data misfit of each sample, (B, S): the mean squared residual in units of the measurement noise. 1 is
            right; well above, the sample does not explain the measurement; well below, it has fitted the noise.
        network_calls, vjps: Forward and backward passes per sample.
        seconds: Wall time of the sampling.
        settings: Algorithm, knobs, seed and versions; with these the run can be repeated.
    """

    samples: Tensor
    chi2: Tensor
    network_calls: int
    vjps: int
    seconds: float
    settings: dict[str, Any]

    @property
    def mean(self) -> Tensor:
        """Posterior mean, (B, C, *spatial): the best guess in squared error."""
        return self.samples.mean(1)

    @property
    def std(self) -> Tensor:
        """Posterior standard deviation of each pixel, (B, C, *spatial); NaN with one sample, which has no spread."""
        if self.samples.shape[1] == 1:
            return torch.full_like(self.samples[:, 0], torch.nan)
        return self.samples.std(1)

    def quantile(self, p: float) -> Tensor:
        """The `p`-quantile of each pixel over the samples, (B, C, *spatial), for `p` in [0, 1]."""
        return self.samples.quantile(p, dim=1)

    def save(self, folder: str | Path) -> list[Path]:
        """Write samples.safetensors, settings.json and, for 1 or 3 channels, PNGs of mean, spread and samples.

        Each PNG carries the settings in its text chunk. Returns the paths written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        record = {**self.settings, "seconds": self.seconds, "network_calls": self.network_calls, "vjps": self.vjps}
        record["chi2"] = self.chi2.tolist()
        text = json.dumps(record, indent=2, default=str)
        written = [folder / "samples.safetensors", folder / "settings.json"]
        save_file({"samples": self.samples.contiguous().cpu(), "chi2": self.chi2.contiguous().cpu()}, written[0])
        written[1].write_text(text + "\n")
        if self.samples.ndim != 5 or self.samples.shape[2] not in (1, 3):
            return written
        for b in range(len(self.samples)):
            prefix = f"{b:03d}-" if len(self.samples) > 1 else ""
            pictures = {"mean": self.mean[b], **{f"sample-{s}": x for s, x in enumerate(self.samples[b])}}
            if self.samples.shape[1] > 1:
                spread = self.std[b]
                pictures["spread"] = spread / spread.max().clamp_min(1e-12)
            for name, picture in pictures.items():
                written.append(folder / f"{prefix}{name}.png")
                save_png(picture, written[-1], text)
        return written


def join(parts: list[Restoration]) -> Restoration:
    """The restoration whose samples were drawn in `parts`, one after another."""
    first = parts[0]
    samples, chi2 = (torch.cat([getattr(p, name) for p in parts], 1) for name in ("samples", "chi2"))
    settings = {**first.settings, "n_samples": samples.shape[1]}
    # Passes may differ from part to part where an algorithm looks at its samples: what no sample exceeds is told.
    passes = {name: max(getattr(p, name) for p in parts) for name in ("network_calls", "vjps")}
    seconds = sum(p.seconds for p in parts)
    return dataclasses.replace(first, samples=samples, chi2=chi2, seconds=seconds, settings=settings, **passes)


def save_png(picture: Tensor, path: Path, text: str = "") -> None:
    """Write a (1 or 3, H, W) picture in [0, 1] as an 8-bit PNG, `text` under the key "ambient_solve"."""
    array = (picture.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    image = Image.fromarray(np.ascontiguousarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0)))
    info = PngInfo()
    if text:
        info.add_text("ambient_solve", text)
    image.save(path, pnginfo=info)
