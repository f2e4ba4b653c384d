"""A neural prior: a U-Net behind the EDM preconditioning, stored as safetensors and a config.json."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_solve.errors import AmbientSolveError, reason, suggestion
from ambient_solve.noise import Level
from ambient_solve.priors.base import Prior
from ambient_solve.priors.finite import require_finite
from ambient_solve.priors.network_config import CONFIG, NetworkConfig, read_config_file, read_process
from ambient_solve.priors.precision import SIDE, Verdict, compare, converted
from ambient_solve.priors.unet import UNet
from ambient_solve.process import SoftSettings
from ambient_solve.saving import save_tensors

WEIGHTS = "model.safetensors"
"""File of the weights in the folder of a prior."""
CARD = "README.md"
"""File of its model card."""
PRECISIONS = ("auto", "float32", "bfloat16")

BYTES_FORWARD = 800
"""Memory per pixel and sample without a backward pass, measured for a network of `WIDTH` channels per pixel."""
BYTES_BACKWARD = 2700
"""The same with a backward pass."""
WIDTH = 20.75
"""Channels per pixel of the network whose memory was measured."""


class NetworkPrior(Prior):
    """`D(z; sigma) = c_skip z + c_out F(c_in z; ln(sigma) / 4)` (Karras et al., 2022, arXiv 2206.00364, equation 7).

    Pictures of any size are padded by reflection to the stride of the network and cropped again. State, preconditioning
    and result are float32.

    Of a soft process the best linear estimate takes the place of `c_skip z`, and the deviation of its error, frequency
    by frequency, that of `c_out` (`SoftSettings.estimate`): F predicts a residual of unit variance there, too.

    Args:
        config: Size of the network, its noise levels and its units.
        precision: Arithmetic inside the network: "float32", "bfloat16", or "auto", which is bfloat16 where the hardware
            multiplies it natively and, for frozen weights, its error is small beside the standard deviation of the
            posterior, which is measured once.
        soft: The forward process, where it is no additive noise.

    Raises:
        AmbientSolveError: no such precision.
    """

    def __init__(self, config: NetworkConfig, precision: str = "auto", soft: SoftSettings | None = None) -> None:
        super().__init__()
        self.config, self.soft = config, soft
        if soft is not None:
            self.process = soft.process()
        self.shape = (config.channels, *(config.size or (-1, -1)))
        self.sigma_min, self.sigma_max, self.sigma_data = config.sigma_min, config.sigma_max, config.sigma_data
        # Measured on photographs: `sigma^2 v'J v` of random v turns negative above some ten times the data's deviation.
        self.sigma_jacobian = 10 * config.sigma_data
        self.network = UNet(
            config.channels,
            config.widths,
            config.depths,
            config.unshuffle,
            config.groups,
            config.embedding,
            config.mask_channels,
        ).float()  # whatever the default type is
        self._layout, self.channels_last = torch.contiguous_format, True
        self._weights = tuple(self.network.parameters())
        # Each with what it was made for; in tuples, so that a copy is no part of the module and of what it saves.
        self._judged: tuple[Any, Verdict | None] = (None, None)
        self._copied: dict[torch.dtype, tuple[Any, nn.Module]] = {}
        self.set_precision(precision)

    def memory(self, pixels: int, backward: bool) -> float:
        """See `Prior.memory`."""
        levels = enumerate(zip(self.config.widths, self.config.depths, strict=True))
        width = sum(n * blocks / 4**i for i, (n, blocks) in levels) / self.config.unshuffle**2
        return (BYTES_BACKWARD if backward else BYTES_FORWARD) * width / WIDTH * pixels

    def takes_tiles(self, side: int) -> bool:
        """See `Prior.takes_tiles`."""
        return self.config.mask_channels == 0 and self.config.size in (None, (side, side))

    def set_precision(self, precision: str) -> NetworkPrior:
        """Choose the arithmetic of the network; returns the prior itself."""
        if precision not in PRECISIONS:
            raise AmbientSolveError(f"precision={precision!r} is not a choice. {suggestion(precision, PRECISIONS)}")
        self.precision = precision
        return self

    @property
    def arithmetic(self) -> str:
        """What "auto" has chosen for frozen weights and why; empty where there was nothing to choose."""
        verdict = self._judged[1]
        return str(verdict) if verdict is not None and self.precision == "auto" else ""

    @property
    def affine(self) -> tuple[float, float]:
        """`decode(z) = scale * z + offset`."""
        return self.config.scale, self.config.offset

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`. `z` (B, channels, H, W); `cond` (B, mask_channels, H, W) or, unconditional, None."""
        if (0 if cond is None else cond.shape[1]) != self.config.mask_channels:
            raise AmbientSolveError(
                f"This network is shown {self.config.mask_channels} mask_channels beside the picture, not "
                f"{0 if cond is None else cond.shape[1]}: wrap it in AmbientPrior, or use an unconditional prior."
            )
        half, layout = self.match_layout(z.device)
        return self._denoise(z, sigma, cond, half, layout)

    def _denoise(self, z: Tensor, sigma: Level, cond: Any, half: bool, layout: torch.memory_format) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=z.device).expand(len(z))
        s, data = sigma[:, None, None, None], self.sigma_data
        s = (s**2 + self.config.missing**2).sqrt() if self.config.missing else s
        total = s**2 + data**2
        height, width = z.shape[-2:]
        # The mask joins after the preconditioning: c_in is about the picture's scale.
        u = z * total.rsqrt() if cond is None else torch.cat([z * total.rsqrt(), cond.to(z.dtype)], 1)
        u = pad_to(u, self.network.stride)
        network: nn.Module = self.network
        dtype = torch.bfloat16 if half else torch.float32
        if not half and self._forward_alone(z):
            layout = torch.channels_last
        if self._frozen and (half or layout is torch.channels_last):
            network = self._converted(dtype, layout)
        with torch.autocast(z.device.type, torch.bfloat16, enabled=half):
            f = network(u.contiguous(memory_format=layout), sigma.log() / 4)
        f = f[..., :height, :width].float()
        c_skip, c_out = data**2 / total, s * data * total.rsqrt()
        if self.soft is not None:
            return self.soft.estimate(z, sigma, data, f)
        if self.config.keep_probability is not None:
            # What a mask hides has infinite noise. Under c_out of the level itself, the network would have to answer
            # with numbers as large as 1 / sigma there.
            seen = cond.to(z.dtype)
            c_skip, c_out = seen * c_skip, seen * c_out + (1 - seen) * data
        return c_skip * z + c_out * f

    def match_layout(self, device: torch.device) -> tuple[bool, torch.memory_format]:
        """Whether the network computes in bfloat16 on `device`, and the memory layout its weights now have for that.

        Measured on a CPU: channels-last makes bfloat16 convolutions faster and float32 gradients several times slower.
        Where there is no gradient float32 is faster in it too; a copy of frozen weights is kept for that.
        """
        half = self.precision == "bfloat16"
        if self.precision == "auto":
            half = multiplies_bfloat16(device) and (not self._frozen or self._judge(device).fine)
        layout = torch.channels_last if half and self.channels_last else torch.contiguous_format
        if self._layout is not layout and not (half and self._frozen):
            self.network.to(memory_format=layout)
            self._layout = layout
        return half, layout

    @property
    def _frozen(self) -> bool:
        return not self.training and not any(w.requires_grad for w in self._weights)

    def take_notice(self) -> None:
        """Take notice of layers that were put into the network."""
        self._weights = tuple(self.network.parameters())

    def _state(self, *more: Any) -> tuple[Any, ...]:
        """Changes with the weights, which count how often they were written to."""
        return (sum(w._version for w in self._weights), self._weights[0].device, *more)

    def _judge(self, device: torch.device) -> Verdict:
        state = self._state(device)
        judged, verdict = self._judged
        if judged != state or verdict is None:
            height, width = self.config.size or [max(SIDE, self.network.stride)] * 2
            shape, mask_channels = (1, self.config.channels, height, width), self.config.mask_channels
            cond = self._weights[0].new_ones(1, mask_channels, height, width) if mask_channels else None
            plain = torch.contiguous_format
            fast = torch.channels_last if self.channels_last else plain
            verdict = compare(
                lambda z, sigma: self._denoise(z, sigma, cond, False, plain),
                lambda z, sigma: self._denoise(z, sigma, cond, True, fast),
                shape,
                self.sigma_data,
                device,
            )
            self._judged = (state, verdict)
        return verdict

    def _forward_alone(self, z: Tensor) -> bool:
        """Whether no gradient is asked for, on a CPU with frozen weights: channels-last is then faster in float32."""
        asked = (torch.is_grad_enabled() and z.requires_grad) or torch._C._are_functorch_transforms_active()
        counted = not self._weights[0].is_inference()  # else a copy could not know that they were written to
        return self.channels_last and self._frozen and z.device.type == "cpu" and counted and not asked

    def _converted(self, dtype: torch.dtype, layout: torch.memory_format) -> nn.Module:
        state = self._state(layout)
        of, copied = self._copied.get(dtype, (None, None))
        if of != state or copied is None:
            if torch._C._are_functorch_transforms_active():
                return self.network  # what is made there cannot be kept
            copied = converted(self.network, dtype, layout)
            self._copied[dtype] = (state, copied)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Without the converted weights: they can be made again."""
        return {**self.__dict__, "_copied": {}}

    def save(self, folder: str | Path, card: str = "", dtype: torch.dtype = torch.float32) -> None:
        """Write model.safetensors, config.json and the model card.

        Args:
            folder: Where to; made where it is missing.
            card: Text of README.md; none is written where it is empty.
            dtype: Type of the stored weights.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.to(dtype).contiguous().cpu() for k, v in self.network.state_dict().items()}
        save_tensors(weights, folder / WEIGHTS)
        # safetensors writes files that only their owner may read; a prior is there to be shared.
        (folder / WEIGHTS).chmod(0o644)
        settings = {"kind": "NetworkPrior", **dataclasses.asdict(self.config)}
        if self.soft is not None:
            settings["process"] = {"kind": "soft", **dataclasses.asdict(self.soft)}
        (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
        if card:
            (folder / CARD).write_text(card)

    @classmethod
    def load(cls, folder: str | Path, precision: str = "auto") -> NetworkPrior:
        """Read what `save` wrote. Only safetensors are read; a pickle is refused, whatever its name.

        Args:
            folder: A folder with model.safetensors and config.json.
            precision: As in the constructor.

        Returns:
            The prior on the CPU, its weights frozen.

        Raises:
            AmbientSolveError: a file is missing or unreadable, or the two do not fit each other.
        """
        folder = Path(folder)
        config, soft = read_config_file(folder), read_process(folder)
        path = folder / WEIGHTS
        if not path.is_file():
            pickles = [p.name for p in folder.iterdir() if p.suffix in (".pt", ".pth", ".bin", ".pkl", ".ckpt")]
            what = f"only {pickles[0]}, a pickle, which can run code and is never read" if pickles else "no weights"
            raise AmbientSolveError(f"{folder} holds {what}; expected {WEIGHTS}, as NetworkPrior.save writes it.")
        with torch.device("meta"):  # what the file does not hold is not made either
            expected = {name: tuple(t.shape) for name, t in cls(config, precision).network.state_dict().items()}
        try:
            with safe_open(path, framework="pt") as file:
                held = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
            wrong = _mismatch(expected, held)
            if wrong:
                raise AmbientSolveError(
                    f"{path} does not fit {CONFIG} beside it: {wrong}. Take both from the same save."
                )
            weights = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            if isinstance(error, AmbientSolveError):
                raise
            raise AmbientSolveError(
                f"{path} is not a readable safetensors file ({reason(error)}). Copy it again, or save the prior anew."
            ) from None
        prior = cls(config, precision, soft)
        prior.network.load_state_dict({k: v.float() for k, v in weights.items()})
        require_finite(prior.network, path)
        return prior.eval().requires_grad_(False)


def _mismatch(expected: dict[str, tuple[int, ...]], given: dict[str, tuple[int, ...]]) -> str:
    for name, shape in expected.items():
        if name not in given:
            return f"{name} is missing"
        if given[name] != shape:
            return f"{name} has shape {given[name]}, expected {shape}"
    return next((f"{name} is not expected" for name in given if name not in expected), "")


def pad_to(z: Tensor, stride: int) -> Tensor:
    """Pad the last two axes on the right to multiples of `stride`: by reflection where the picture is large enough.

    Args:
        z: (..., H, W).
        stride: In pixels, 1 or more.

    Returns:
        (..., H', W'), multiples of `stride`.
    """
    bottom, right = (-z.shape[-2]) % stride, (-z.shape[-1]) % stride
    if not bottom and not right:
        return z
    mode = "reflect" if bottom < z.shape[-2] and right < z.shape[-1] else "replicate"
    return F.pad(z, (0, right, 0, bottom), mode=mode)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    units = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, lambda: False)() for name in units)
