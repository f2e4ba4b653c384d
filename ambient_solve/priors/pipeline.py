r"""A diffusers pipeline (an unconditional UNet and its scheduler) as a prior: epsilon, v, sample and flow prediction.

A diffusers state at its own time is a rescaled EDM state: `sqrt(abar) z`, `abar = 1 / (1 + sigma^2)`, for DDPM (Ho et
al., 2020, arXiv 2006.11239), `z / (1 + sigma)` for flow matching (Lipman et al., 2023, arXiv 2210.02747). What the
network predicts there gives the denoised state:

    epsilon       D = z - sigma eps
    sample        D = x0
    v_prediction  D = sqrt(abar) x - sqrt(1 - abar) v        (Salimans and Ho, 2022, arXiv 2202.00512)
    flow          D = x - s v,  s = sigma / (1 + sigma)       v = n - z0
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, reason, suggestion
from ambient_solve.noise import Level
from ambient_solve.priors.base import Prior
from ambient_solve.priors.foreign import check_unet, checked_scheduler
from ambient_solve.reading.limits import read_json

INDEX = "model_index.json"
"""File by which a folder is known to be a pipeline of diffusers."""
CARD = "README.md"
"""File of its model card."""
PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow")


@final
class PipelinePrior(Prior):
    """`z` in [-1, 1] units; sizes that the UNet's strides divide.

    Args:
        unet: A diffusers `UNet2DModel`; the channels that predict a variance, if any, are not used.
        scheduler: The scheduler's configuration (`scheduler.config`): noise schedule and what the network predicts.
    """

    sigma_data = 0.5
    half: Any = False
    """Whether the network computes in bfloat16; in place of torch's method of that name."""
    network: Any
    _log_levels: Tensor
    _times: Tensor

    def __init__(self, unet: Any, scheduler: Mapping[str, Any]) -> None:
        super().__init__()
        levels, prediction = _schedule(scheduler)
        if prediction not in PREDICTIONS:
            raise AmbientSolveError(f"prediction={prediction!r} is not a choice. {suggestion(prediction, PREDICTIONS)}")
        self.network, self.scheduler, self.prediction = unet, dict(scheduler), prediction
        self.shape = (unet.config.in_channels, -1, -1)
        times = np.flatnonzero(levels > 0)
        self.sigma_min, self.sigma_max = float(levels[times[0]]), float(levels[times[-1]])
        self.sigma_jacobian = 10 * self.sigma_data
        self.register_buffer("_log_levels", torch.tensor(np.log(levels[times])).float(), persistent=False)
        self.register_buffer("_times", torch.tensor(times).float(), persistent=False)

    @property
    def affine(self) -> tuple[float, float]:
        """`decode(z) = (z + 1) / 2`."""
        return 0.5, 0.5

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`."""
        if cond is not None:
            raise AmbientSolveError("This UNet is unconditional: leave out cond.")
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=z.device).expand(len(z))
        s = sigma[:, None, None, None]
        flow = self.prediction == "flow"
        x = z / (1 + s) if flow else z * (1 + s**2).rsqrt()
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self.half):
            out = self.network(x, self._time(sigma), return_dict=False)[0][:, : z.shape[1]].float()
        if flow:
            return x - s / (1 + s) * out
        if self.prediction == "epsilon":
            return z - s * out
        return out if self.prediction == "sample" else (x - s * out) * (1 + s**2).rsqrt()

    def _time(self, sigma: Tensor) -> Tensor:
        """The network's time of level `sigma`, interpolated in ln sigma, (B,)."""
        grid, at = self._log_levels, sigma.log()
        i = torch.searchsorted(grid, at).clamp(1, len(grid) - 1)
        share = ((at - grid[i - 1]) / (grid[i] - grid[i - 1])).clamp(0, 1)
        return self._times[i - 1] + share * (self._times[i] - self._times[i - 1])

    def save(self, folder: str | Path, card: str = "", dtype: torch.dtype = torch.float32) -> None:
        """Write a diffusers pipeline folder, safetensors and JSON.

        Args:
            folder: Where to.
            card: Text of the model card.
            dtype: Type of the stored weights.
        """
        folder = Path(folder)
        copy.deepcopy(self.network).to(dtype).save_pretrained(folder / "unet", safe_serialization=True)
        (folder / "scheduler").mkdir(exist_ok=True)
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(self.scheduler, indent=2) + "\n")
        index = {
            "_class_name": "DDPMPipeline",
            "unet": ["diffusers", "UNet2DModel"],
            "scheduler": ["diffusers", self.scheduler["_class_name"]],
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        if card:
            (folder / CARD).write_text(card)

    @classmethod
    def load(cls, folder: str | Path) -> PipelinePrior:
        """Read a pipeline folder as diffusers' `save_pretrained` or our `save` writes it; safetensors only."""
        try:
            from diffusers import UNet2DModel
        except ImportError:
            raise AmbientSolveError("This prior needs diffusers: pip install 'ambient-solve[train]'.") from None

        folder = Path(folder)
        path = folder / "scheduler" / "scheduler_config.json"
        if not path.is_file() or not (folder / "unet").is_dir():
            raise AmbientSolveError(
                f"{folder} is no diffusers pipeline: it needs unet/ and {path.relative_to(folder)}, as "
                "DDPMPipeline(unet, scheduler).save_pretrained(folder) writes them."
            )
        scheduler = checked_scheduler(read_json(path), path)
        check_unet(folder / "unet")
        try:
            unet = UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True, local_files_only=True)
        except Exception as error:  # noqa: BLE001 - diffusers raises whatever its layers raise
            raise AmbientSolveError(
                f"{folder} cannot be read ({reason(error)}); expected safetensors and JSON."
            ) from None
        return cls(unet, scheduler).eval().requires_grad_(False)


def _schedule(scheduler: Mapping[str, Any]) -> tuple[np.ndarray, str]:
    """The EDM level of each time of a diffusers scheduler, and what the network predicts."""
    import diffusers

    scheduler = checked_scheduler(dict(scheduler), "The scheduler")
    name = scheduler.get("_class_name", "")
    steps = scheduler.get("num_train_timesteps", 1000)
    if name.startswith("FlowMatch"):
        # A network trained at s = t / steps; `shift` only moves a sampler's steps.
        s = np.arange(1, steps) / steps
        return np.concatenate([[0.0], s / (1 - s)]), "flow"
    kind: Any = getattr(diffusers, name, None)
    known = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    try:
        made = kind.from_config(scheduler) if known else None
    except Exception as error:  # noqa: BLE001 - diffusers raises whatever its arithmetic raises
        raise AmbientSolveError(f"The scheduler {name!r} cannot be made ({reason(error)}).") from None
    if made is None or not hasattr(made, "alphas_cumprod"):
        raise AmbientSolveError(
            f"The scheduler {name!r} is unknown; diffusers' FlowMatch is read, and those with alphas_cumprod."
        )
    bar = made.alphas_cumprod.double().numpy()
    bar = bar[bar > 1e-8]  # a schedule with no signal left at its end has no finite level there
    if len(bar) < 2 or not (np.isfinite(bar) & (bar < 1)).all() or (np.diff(bar) >= 0).any():
        raise AmbientSolveError(
            f"The scheduler {name!r} does not add noise step by step: its alphas_cumprod must fall."
        )
    return np.sqrt((1 - bar) / bar), scheduler.get("prediction_type", "epsilon")
