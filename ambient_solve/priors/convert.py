"""Checkpoints of others as prior folders: the one place that reads a torch file, and that with `weights_only=True`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, first_line, reason, suggestion
from ambient_solve.priors.autoencoder import mismatch
from ambient_solve.priors.base import Prior
from ambient_solve.priors.conditioning import read_conditioning
from ambient_solve.priors.kinds import KINDS, Converted
from ambient_solve.priors.network import CARD, WEIGHTS
from ambient_solve.priors.network_config import CONFIG
from ambient_solve.priors.pipeline import PipelinePrior
from ambient_solve.priors.score_sde import averaged_state
from ambient_solve.reading.limits import read_json
from ambient_solve.saving import save_tensors

STATES = ("state_dict", "model", "ema", "params", "params_ema", "model_state_dict")
"""Names under which checkpoints keep their state dict beside other things."""
PICKLED = b"\x80"
"""First byte of an older torch file."""
SIDE = 32
"""Pixels along one side of the gray picture on which a prior is tried, at least."""
MOST_LEFT = 0.5
"""Share of the noise at level `sigma_data` that is left by the best estimate that knows nothing but the level."""


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
    found = (averaged_state(found) if isinstance(found, dict) else None) or found
    for name in STATES:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    state = {str(k): v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, dict) else {}
    if not state:
        raise AmbientSolveError(f"{path} holds no state dict, tensors by name; save network.state_dict().")
    together = all(name.startswith("module.") for name in state)  # as data-parallel training writes it
    return {name.removeprefix("module.") if together else name: t for name, t in state.items()}


def convert(
    file: str | Path,
    kind: str,
    out: str | Path,
    *,
    head_channels: int | None = None,
    schedule: str | None = None,
    preconditioning: str | None = None,
) -> Converted:
    """Write a checkpoint of others as a prior folder: model.safetensors, config.json and a model card.

    Args:
        file: The checkpoint: a state dict as torch or safetensors write it, alone or under a usual name.
        kind: One of `KINDS`.
        out: The folder.
        head_channels: Of guided-diffusion, edm and edm2 alone: channels of an attention head, which no tensor shows;
            64 unless given.
        schedule: Of guided-diffusion alone: "linear", which it is unless given, or "cosine".
        preconditioning: Of edm and score-sde alone: "edm", which it is for edm unless given, "vp" or "ve".

    Returns:
        The prior, as `load_prior(out)` gives it.

    Raises:
        AmbientSolveError: the file cannot be read without running code, or is of another kind.
    """
    if kind not in KINDS:
        raise AmbientSolveError(f"kind {kind!r} is not a choice. {suggestion(kind, KINDS)}")
    path, folder, known = Path(file), Path(out), KINDS[kind]
    given = {"head_channels": head_channels, "schedule": schedule, "preconditioning": preconditioning}
    other = next((name for name, value in given.items() if value is not None and name not in known.settings), None)
    if other:
        raise AmbientSolveError(f"{other} says nothing of kind {kind}: leave it out.")
    state = read_state(path)
    if known.prefix and all(name.startswith(known.prefix) for name in state):
        state = {name.removeprefix(known.prefix): t for name, t in state.items()}
    chosen = {name: value if given[name] is None else given[name] for name, value in known.settings.items()}
    state, more = known.named(state)
    settings: dict[str, Any] = {"kind": kind, **chosen, **more}
    prior, words = _filled(state, settings, path)
    try:
        left = noise_left(prior)
    except (ValueError, RuntimeError, IndexError) as error:
        why = reason(error)
        raise AmbientSolveError(f"{path}: its network fails on a picture ({why}): choose another --kind.") from None
    folder.mkdir(parents=True, exist_ok=True)
    apart = {name: t.clone(memory_format=torch.contiguous_format) for name, t in state.items()}  # none shares memory
    save_tensors(apart, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
    (folder / CARD).write_text(_card(path, kind, state, words, _tried(prior, left)))
    return load_converted(folder)


def noise_left(prior: Prior) -> float:
    """The share of the noise that a prior leaves on a gray picture: a network that was read wrongly leaves most of it.

    Args:
        prior: Any prior; where it knows classes, the first is taken.

    Returns:
        The error beside the noise, root mean square each, at level `sigma_data` or the nearest that it knows.
    """
    level = _tried_at(prior)
    side = max(SIDE, 2 * getattr(prior, "stride", 1))
    sides = [n if n > 0 else side for n in prior.shape[1:]]
    noise = torch.randn(1, prior.shape[0], *sides, generator=torch.Generator().manual_seed(0))
    cond = 0 if getattr(prior, "classes", None) else None
    z = prior.encode(torch.full_like(noise, 0.5))
    with torch.no_grad():
        error = prior.denoise(z + level * noise, level, cond) - z
    return float(error.square().mean().sqrt() / (level * noise.square().mean().sqrt()))


def _tried_at(prior: Prior) -> float:
    return min(max(prior.sigma_data, prior.sigma_min), prior.sigma_max)


def _tried(prior: Prior, left: float) -> str:
    """What a trial has shown, in sentences for the model card."""
    words = f"Tried on a gray picture with noise of level {_tried_at(prior):.2g}, it leaves {left:.0%} of the noise."
    if left <= MOST_LEFT:
        return words
    return (
        f"{words} That is more than a network leaves that knows such pictures: the weights are untrained, or what was "
        "taken as given is not so. Look at its samples before you use it."
    )


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
    return _filled(state, settings, where)[0]


def _filled(state: Mapping[str, Tensor], settings: Mapping[str, Any], where: Path) -> tuple[Converted, str]:
    """The prior, and what the model card says of it."""
    kind = settings.get("kind")
    known = KINDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise AmbientSolveError(f"{where}: kind = {str(kind)[:60]!r}; one of {', '.join(KINDS)} was expected.")
    bad = next((name for name, t in state.items() if t.is_floating_point() and not bool(t.isfinite().all())), None)
    if bad:
        raise AmbientSolveError(f"{where}: {bad} has NaN or infinite numbers: the file is damaged, copy it again.")
    made = known.make(state, settings)
    network = made.network.get_submodule(made.inner)
    held = {name: tuple(t.shape) for name, t in state.items()}
    wrong = mismatch({name: tuple(t.shape) for name, t in network.state_dict().items()}, held)
    if wrong:
        raise AmbientSolveError(f"{where} is no {kind} checkpoint that is known: {wrong}.")
    network.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in state.items()}, assign=True)
    prior = made.prior(made.network.eval().requires_grad_(False))
    return prior.eval().requires_grad_(False), made.words


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
        prior: With an `AdaptedNetwork`.
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


def _card(path: Path, kind: str, state: Mapping[str, Tensor], words: str, tried: str) -> str:
    numbers = (
        f"{sum(t.numel() for t in state.values()):,} numbers in {len(state)} tensors. What it was trained on, and "
        "under which terms it may be used, the file does not say: add it here."
    )
    first = f"Converted by `ambient-solve convert` from {path.name}: a {KINDS[kind].words}."
    return "\n\n".join([f"# {path.stem}", first, *([words] if words else []), tried, numbers]) + "\n"
