"""Checkpoints of others as prior folders: the one place that reads a torch file, and that with `weights_only=True`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError, first_line, suggestion
from ambient_solve.priors.adm import Adm, read_size
from ambient_solve.priors.autoencoder import mismatch
from ambient_solve.priors.conditioning import NONE, read_conditioning
from ambient_solve.priors.denoiser import DenoiserPrior
from ambient_solve.priors.network import CARD, WEIGHTS
from ambient_solve.priors.network_config import CONFIG
from ambient_solve.priors.pipeline import PipelinePrior
from ambient_solve.reading.limits import read_json
from ambient_solve.saving import save_tensors

Converted = PipelinePrior | DenoiserPrior
"""What a checkpoint of others becomes."""
Shapes = Mapping[str, tuple[int, ...]]
STATES = ("state_dict", "model", "ema", "params", "params_ema", "model_state_dict")
"""Names under which checkpoints keep their state dict beside other things."""
SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
"""The noise schedules of guided-diffusion, and what diffusers calls them."""
HEAD_CHANNELS = 64
"""Channels of an attention head in the published networks."""
PICKLED = b"\x80"
"""First byte of an older torch file."""
MAX_HEAD = 4096
"""Channels of an attention head, at most."""


@final
class AdmNetwork(nn.Module):
    """`Adm` as `PipelinePrior` calls a network of diffusers.

    Args:
        network: The network.
    """

    def __init__(self, network: Adm) -> None:
        super().__init__()
        self.network, given = network, network.config
        self.config = SimpleNamespace(
            in_channels=given.channels,
            out_channels=given.out_channels,
            block_out_channels=given.multiples,
            num_class_embeds=given.classes or None,
            class_embed_type=None,
        )

    def forward(
        self, x: Tensor, times: Tensor, return_dict: bool = False, class_labels: Tensor | None = None
    ) -> tuple[Tensor]:
        """See `Adm`."""
        return (self.network(x, times, class_labels),)


def _adm(shapes: Shapes, settings: Mapping[str, Any]) -> tuple[nn.Module, Callable[[nn.Module], Converted]]:
    head, schedule = settings.get("head_channels", HEAD_CHANNELS), settings.get("schedule", "linear")
    if type(head) is not int or not 1 <= head <= MAX_HEAD:
        raise AmbientSolveError(f"head_channels = {head!r}; a whole number from 1 to {MAX_HEAD} was expected.")
    if schedule not in SCHEDULES:
        raise AmbientSolveError(f"schedule = {schedule!r} is not a choice. {suggestion(str(schedule), SCHEDULES)}")
    scheduler = {"_class_name": "DDPMScheduler", "beta_schedule": SCHEDULES[schedule], "num_train_timesteps": 1000}
    size = read_size(shapes, head)
    with torch.device("meta"):
        network = Adm(size)
    shown = settings.get("conditioning", NONE)
    return network, lambda filled: PipelinePrior(AdmNetwork(cast("Adm", filled)), scheduler, shown)


def _deepinv(shapes: Shapes, settings: Mapping[str, Any]) -> tuple[nn.Module, Callable[[nn.Module], Converted]]:
    import deepinv

    if "m_head.weight" in shapes:
        out, given = shapes.get("m_tail.weight", (0, 0))[0], shapes["m_head.weight"]
        make: Callable[[], nn.Module] = lambda: deepinv.models.DRUNet(out, out, pretrained=None)  # noqa: E731
        channels, top = given[1] - 1, 2.0  # trained for noise up to one, in units of [0, 1]
    elif "in_conv.weight" in shapes:
        channels, top = shapes["in_conv.weight"][1], 0.2
        depth, width = 2 + sum(n.startswith("conv_list.") and n.endswith("weight") for n in shapes), 0
        width, bias = shapes["in_conv.weight"][0], "in_conv.bias" in shapes
        make = lambda: deepinv.models.DnCNN(channels, channels, depth, bias, width, pretrained=None)  # noqa: E731
    else:
        raise AmbientSolveError(
            "The checkpoint is no DRUNet and no DnCNN of deepinv: m_head.weight and in_conv.weight are missing. Choose "
            "another --kind."
        )
    network = make().to("meta")
    return network, lambda filled: DenoiserPrior(filled, channels, sigma_max=top)


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint.

    Attributes:
        make: The network, without its weights, from the shapes and the settings; and the prior around it, filled.
        words: What it is, for the model card.
    """

    make: Callable[[Shapes, Mapping[str, Any]], tuple[nn.Module, Callable[[nn.Module], Converted]]]
    words: str


KINDS = {
    "guided-diffusion": Kind(_adm, "U-Net of guided-diffusion (ADM), which predicts the noise of pictures in [-1, 1]"),
    "deepinv": Kind(
        _deepinv, "restoration network of deepinv (DRUNet or DnCNN): a denoiser of low noise, no generator"
    ),
}
"""The kinds of checkpoints that are read."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint, a safetensors or a torch file; no code in it is run.

    Args:
        path: The file.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        AmbientSolveError: it cannot be read without running code, or holds no state dict.
    """
    if not path.is_file():
        raise AmbientSolveError(f"There is no file {path}.")
    try:
        safe = path.suffix == ".safetensors"
        found: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise AmbientSolveError(f"{path} cannot be read ({first_line(error)}); copy it again.") from None
    except Exception as error:  # noqa: BLE001 - what torch raises on a file of others
        pickled = type(error).__name__ == "UnpicklingError"  # whose module is never imported here
        code = pickled and (zipfile.is_zipfile(path) or path.read_bytes()[:1] == PICKLED)
        what = "holds objects with code, which is never run" if code else f"is no torch file ({first_line(error)[:80]})"
        raise AmbientSolveError(
            f"{path} {what}; load it where you trust it, and save its state_dict() by torch.save or as safetensors."
        ) from None
    for name in STATES:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    state = {str(k): v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, dict) else {}
    if not state:
        raise AmbientSolveError(f"{path} holds no state dict, tensors by name; save network.state_dict().")
    together = all(name.startswith("module.") for name in state)  # as data-parallel training writes it
    return {name.removeprefix("module.") if together else name: t for name, t in state.items()}


def convert(
    file: str | Path, kind: str, out: str | Path, *, head_channels: int = HEAD_CHANNELS, schedule: str = "linear"
) -> Converted:
    """Write a checkpoint of others as a prior folder: model.safetensors, config.json and a model card.

    Args:
        file: The checkpoint: a state dict as torch or safetensors write it, alone or under a usual name.
        kind: One of `KINDS`.
        out: The folder.
        head_channels: Of guided-diffusion alone: channels of an attention head, which no tensor shows.
        schedule: Of guided-diffusion alone: "linear" or "cosine".

    Returns:
        The prior, as `load_prior(out)` gives it.

    Raises:
        AmbientSolveError: the file cannot be read without running code, or is of another kind.
    """
    if kind not in KINDS:
        raise AmbientSolveError(f"kind {kind!r} is not a choice. {suggestion(kind, KINDS)}")
    path, folder = Path(file), Path(out)
    state = read_state(path)
    settings: dict[str, Any] = {"kind": kind}
    if kind == "guided-diffusion":
        settings |= {"head_channels": head_channels, "schedule": schedule}
    filled(state, settings, path)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors({name: t.contiguous() for name, t in state.items()}, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
    (folder / CARD).write_text(_card(path, kind, state))
    return load_converted(folder)


def filled(state: Mapping[str, Tensor], settings: Mapping[str, Any], where: Path) -> Converted:
    """The prior of a state dict.

    Args:
        state: Tensors by name.
        settings: What config.json holds, not trusted.
        where: What an error calls the checkpoint.

    Returns:
        The prior, its weights frozen.

    Raises:
        AmbientSolveError: tensors are missing, not expected, of another shape, or no numbers.
    """
    kind = settings.get("kind")
    known = KINDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise AmbientSolveError(f"{where}: kind = {str(kind)[:60]!r}; one of {', '.join(KINDS)} was expected.")
    network, prior = known.make({name: tuple(t.shape) for name, t in state.items()}, settings)
    held = {name: tuple(t.shape) for name, t in state.items()}
    wrong = mismatch({name: tuple(t.shape) for name, t in network.state_dict().items()}, held)
    if wrong:
        raise AmbientSolveError(f"{where} is no {kind} checkpoint that is known: {wrong}.")
    bad = next((name for name, t in state.items() if t.is_floating_point() and not bool(t.isfinite().all())), None)
    if bad:
        raise AmbientSolveError(f"{where}: {bad} has NaN or infinite numbers: the file is damaged, copy it again.")
    network.load_state_dict({name: t.float() for name, t in state.items()}, assign=True)
    return prior(network.eval().requires_grad_(False)).eval().requires_grad_(False)


def is_converted(folder: Path) -> bool:
    """Whether a folder holds what `convert` wrote."""
    path = folder / CONFIG
    settings = read_json(path) if path.is_file() else None
    return isinstance(settings, dict) and isinstance(settings.get("kind"), str) and settings["kind"] in KINDS


def load_converted(folder: Path) -> Converted:
    """Read what `convert` wrote.

    Args:
        folder: With model.safetensors and config.json.

    Returns:
        The prior on the CPU, its weights frozen.

    Raises:
        AmbientSolveError: a file is missing or unreadable, or the two do not fit each other.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise AmbientSolveError(f"{folder} holds no {WEIGHTS}: ambient-solve convert writes it.")
    try:
        with safe_open(path, framework="pt"):
            state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise AmbientSolveError(f"{path} is not a readable safetensors file ({first_line(error)}).") from None
    return filled(state, {**read_json(folder / CONFIG), "conditioning": read_conditioning(folder)}, path)


def save_converted(
    prior: PipelinePrior, settings: Mapping[str, Any], folder: Path, card: str, dtype: torch.dtype
) -> None:
    """Write a prior of a converted checkpoint, trained further, as `convert` wrote it.

    Args:
        prior: With an `AdmNetwork`.
        settings: What config.json held.
        folder: Where to; made where it is missing.
        card: Text of the model card.
        dtype: Type of the stored weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = prior.network.network.state_dict()
    save_tensors({name: t.to(dtype).contiguous().cpu() for name, t in weights.items()}, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)
    (folder / CONFIG).write_text(json.dumps(dict(settings), indent=2) + "\n")
    prior.conditioning.write(folder)
    (folder / CARD).write_text(card)


def _card(path: Path, kind: str, state: Mapping[str, Tensor]) -> str:
    return (
        f"# {path.stem}\n\nConverted by `ambient-solve convert` from {path.name}: a {KINDS[kind].words}.\n\n"
        f"{sum(t.numel() for t in state.values()):,} numbers in {len(state)} tensors. What it was trained on, and "
        "under which terms it may be used, the file does not say: add it here.\n"
    )
