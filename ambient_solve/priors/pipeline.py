"""A diffusers pipeline (a UNet of pixels and its scheduler) as a prior; `parameterization` says how it is called."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, reason
from ambient_solve.noise import Level
from ambient_solve.priors.base import Prior
from ambient_solve.priors.conditioning import NONE, Conditioning, read_conditioning, shown_part
from ambient_solve.priors.finite import require_finite
from ambient_solve.priors.foreign import INDEX, Layout, check_unet, checked_scheduler
from ambient_solve.priors.network import pad_to
from ambient_solve.priors.parameterization import interpolated, parameterization
from ambient_solve.reading.limits import read_json

CARD = "README.md"
"""File of its model card."""


@final
class PipelinePrior(Prior):
    """A `UNet2DModel` of pixels as a prior, on pictures of any size: they are padded to the strides of the network.

    A network that was trained with classes is given one: `Solver.solve(..., cond=3)`, or a tensor with one for each
    measurement.

    Args:
        unet: A diffusers `UNet2DModel`. Channels that predict a variance, as many as the picture has, are not used.
        scheduler: The scheduler's configuration (`scheduler.config`): noise schedule and what the network predicts.
        conditioning: The channels that fine-tuning has widened its input by, `cond` of `denoise`.

    Raises:
        AmbientSolveError: an unknown scheduler or prediction, channels that are no denoiser's, or a condition other
            than a class.
    """

    half: Any = False
    """Whether the network computes in bfloat16; in place of torch's method of that name."""
    network: Any
    _log_levels: Tensor
    _times: Tensor | None

    def __init__(self, unet: Any, scheduler: Mapping[str, Any], conditioning: Conditioning = NONE) -> None:
        super().__init__()
        self.rule, self.conditioning = parameterization(scheduler), conditioning
        self.network, self.scheduler, self.prediction = unet, dict(scheduler), self.rule.prediction
        channels = unet.config.in_channels - conditioning.mask_channels
        _check_channels(channels, getattr(unet.config, "out_channels", channels))
        self.classes = _classes(unet.config)
        self.stride = 2 ** (len(getattr(unet.config, "block_out_channels", (0,))) - 1)
        self.shape, levels = (channels, -1, -1), self.rule.levels
        self.sigma_data, self.sigma_jacobian = self.rule.sigma_data, 10 * self.rule.sigma_data
        self.sigma_min, self.sigma_max = float(levels[0]), float(levels[-1])
        times = self.rule.times
        self.register_buffer("_log_levels", torch.tensor(np.log(levels)).float(), persistent=False)
        self.register_buffer("_times", None if times is None else torch.tensor(times).float(), persistent=False)

    @property
    def affine(self) -> tuple[float, float]:
        """`(z + 1) / 2` where the network's pictures are in [-1, 1]; `z` where they are in [0, 1]."""
        return self.rule.affine

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`.

        `cond` is the class, a whole number or (B,), where the network knows classes; where its input was widened, what
        it is shown beside z, (B, mask_channels, H, W).
        """
        shown = self._shown(cond)
        labels = self._labels(cond if shown is None else None, z)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=z.device).expand(len(z))
        s = sigma[:, None, None, None]
        x = self.rule.state(z, s)
        height, width = z.shape[-2:]
        u = x if shown is None else torch.cat([x, shown.to(x)], 1)
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self.half):
            out = self.network(pad_to(u, self.stride), self._time(sigma), return_dict=False, **labels)[0]
        out = out[:, : z.shape[1], :height, :width].float()
        z0 = self.rule.denoised(z, s, x, out)
        if shown is None or self.conditioning.keep_probability is None:
            return z0
        return shown_part(z0, out if self.prediction == "sample" else self.sigma_data * out, shown.to(z0))

    def _time(self, sigma: Tensor) -> Tensor:
        """The network's time of level `sigma`, (B,)."""
        return self.rule.time(sigma) if self._times is None else interpolated(self._log_levels, self._times, sigma)

    def _shown(self, cond: Any) -> Tensor | None:
        """What the network is shown beside its input, checked; None where its input was not widened."""
        channels = self.conditioning.mask_channels
        given = cond.shape[1] if isinstance(cond, Tensor) and cond.ndim == 4 else 0
        if channels and given != channels:
            raise AmbientSolveError(
                f"This network is shown {channels} mask_channels beside the picture, not {given}: wrap it in "
                "AmbientPrior, or pass them as cond=..."
            )
        return cond if channels else None

    def _labels(self, cond: Any, z: Tensor) -> dict[str, Tensor]:
        """The classes, as the network takes them, checked."""
        if self.classes is None:
            if cond is not None:
                raise AmbientSolveError("This UNet is unconditional: leave out cond.")
            return {}
        wanted = f"a class from 0 to {self.classes - 1}"
        if cond is None:
            raise AmbientSolveError(f"This UNet was trained with classes: pass cond=..., {wanted}.")
        given = torch.as_tensor(cond)
        whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
        if not whole or given.ndim > 1 or (given.ndim == 1 and len(given) not in (1, len(z))):
            what = repr(cond) if given.ndim == 0 else f"{given.dtype} of shape {tuple(given.shape)}"
            raise AmbientSolveError(f"cond={what} was given; {wanted}, or one for each measurement, was expected.")
        if given.device.type == "cpu" and not bool(((given >= 0) & (given < self.classes)).all()):
            raise AmbientSolveError(f"cond={given.tolist()} was given; {wanted} was expected.")
        return {"class_labels": given.to(z.device).long().expand(len(z))}

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
        self.conditioning.write(folder)
        if card:
            (folder / CARD).write_text(card)

    @classmethod
    def load(cls, folder: str | Path) -> PipelinePrior:
        """Read a pipeline folder as diffusers' `save_pretrained` or our `save` writes it; safetensors only.

        Args:
            folder: unet/ and scheduler/, or the files of both beside each other.

        Raises:
            AmbientSolveError: it is no pipeline of pixels, or its files cannot be read.
        """
        try:
            from diffusers import UNet2DModel
        except ImportError:
            raise AmbientSolveError("This prior needs diffusers: pip install 'ambient-solve[train]'.") from None

        folder = Path(folder)
        layout = Layout.of(folder)
        scheduler = checked_scheduler(read_json(layout.scheduler), layout.scheduler)
        check_unet(layout)
        try:
            unet = UNet2DModel.from_pretrained(
                layout.unet,
                use_safetensors=True,
                local_files_only=True,
                variant=layout.variant,
                torch_dtype=torch.float32,
            )
        except Exception as error:  # noqa: BLE001 - diffusers raises whatever its layers raise
            raise AmbientSolveError(
                f"{folder} cannot be read ({reason(error)}); expected safetensors and JSON."
            ) from None
        require_finite(unet, folder)
        return cls(unet, scheduler, read_conditioning(folder)).eval().requires_grad_(False)


def _check_channels(taken: int, given: int) -> None:
    if given not in (taken, 2 * taken):
        raise AmbientSolveError(
            f"This UNet takes {taken} channels and gives {given}; a denoiser gives as many as it takes, or twice as "
            "many where it predicts a variance too."
        )


def _classes(config: Any) -> int | None:
    """How many classes a network knows; None if it is unconditional."""
    kind, count = getattr(config, "class_embed_type", None), getattr(config, "num_class_embeds", None)
    if kind is not None:
        raise AmbientSolveError(
            f"This UNet has class_embed_type = {str(kind)[:60]!r}; one with num_class_embeds, or without classes, was "
            "expected."
        )
    return count
