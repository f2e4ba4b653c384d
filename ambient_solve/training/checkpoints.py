"""What a run keeps in its folder: its configuration, its statistics, two checkpoints. Only safetensors and JSON."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import is_tensorboard_available
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ambient_solve.errors import AmbientSolveError, first_line, suggestion
from ambient_solve.saving import reach_disk, replace_text, save_tensors

KEPT = 2
"""Checkpoints that are kept."""
BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)
"""Upper ends of the ranges of noise levels whose losses are averaged, in `z` units."""
ADDED = {
    "held_out": 0.0,
    "mirror": True,
    "noise": {"kind": "white", "length": 0.64, "features": 500},
    "process": {"kind": "additive", "family": "blur", "strongest": 16.0, "curve": 2.0},
    "stages": [],
    "tuning": {
        "kind": "full",
        "rank": 8,
        "layers": "auto",
        "checkpointing": False,
        "eight_bit": False,
        "words": False,
        "cond": "",
    },
}
"""Settings that runs of before did not have, with what they did."""
NAMED = 4
"""Settings whose change is spelled out, at most."""


def tracker(name: str) -> str | None:
    """What accelerate logs to."""
    if name in ("auto", "none"):
        return "tensorboard" if name == "auto" and is_tensorboard_available() else None
    if name not in LOGGER_TYPE_TO_CLASS:
        raise AmbientSolveError(f"tracker = {name!r} is unknown. {suggestion(name, LOGGER_TYPE_TO_CLASS)}")
    if name not in map(str, get_available_trackers()):
        raise AmbientSolveError(f"tracker = {name!r} is not installed: pip install {name}, or tracker: none.")
    return name


class Checkpoints:
    """The last `KEPT` folders `checkpoint-STEP`, each renamed into place when all of it is on the disk.

    Whole tensors, sharded or not. Where the newest cannot be read the one before it is taken.
    """

    def __init__(self, out: Path, main: bool = True) -> None:
        self.out, self.main = out, main

    def save(
        self,
        step: int,
        seconds: float,
        model: nn.Module,
        ema: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
        sums: list[list[float]] | None = None,
    ) -> None:
        """Write a checkpoint, then delete the old ones; all processes call it, and the main one writes.

        Args:
            step: Training steps done.
            seconds: Time taken so far.
            model: The network.
            ema: Its averaged weights by name.
            optimizer: Its state goes in too.
            sums: What `Statistics` has summed up since its last row.
        """
        state = optimizer.state_dict()["state"]
        # An 8-bit optimizer counts its steps by a plain number, and keeps its moments in a mapping of their own.
        moments = {f"{i}.{k}": torch.as_tensor(v) for i, s in state.items() for k, v in _flat(s).items()}
        stored = {"model": stored_form(learned(model)), "ema": stored_form(ema), "optimizer": stored_form(moments)}
        if not self.main:
            return
        part = self.out / "checkpoint.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, tensors in stored.items():
            save_tensors(tensors, part / f"{name}.safetensors")
            reach_disk(part / f"{name}.safetensors")
        record = {"step": step, "seconds": seconds, **({"sums": sums} if sums else {})}
        replace_text(part / "state.json", json.dumps(record))
        new = self.out / f"checkpoint-{step}"
        shutil.rmtree(new, ignore_errors=True)
        part.rename(new)
        reach_disk(self.out)
        for folder in self.all()[:-KEPT]:
            shutil.rmtree(folder)

    def all(self) -> list[Path]:
        """The complete checkpoints, the latest last."""
        found = [p for p in self.out.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdecimal()]
        return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")))

    def state(self) -> tuple[int, float]:
        """The step of the latest checkpoint, and the seconds of training until then."""
        record = self._record()
        return record["step"], record["seconds"]

    def sums(self) -> list[list[float]] | None:
        """What the statistics had summed up at the latest checkpoint since their last row, if anything."""
        return self._record().get("sums") if self.all() else None

    def _record(self) -> dict[str, Any]:
        return json.loads((self.all()[-1] / "state.json").read_text())

    def load(self, model: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        """Restore the latest checkpoint in place and return its step and seconds; (0, 0) where there is none.

        Args:
            model: The network, filled in place.
            ema: Its averaged weights, filled in place.
            optimizer: Filled in place.

        Returns:
            Training steps done, and seconds taken.

        Raises:
            AmbientSolveError: There are checkpoints, and none can be read.
        """
        broken: list[tuple[Path, str]] = []
        for folder in reversed(self.all()):
            try:
                found = _read(folder, model, ema, optimizer)
            except (SafetensorError, OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
                broken.append((folder, first_line(error)))
                continue
            for other, reason in broken if self.main else ():
                print(f"{other} cannot be read ({reason}): going on from {folder.name}.", file=sys.stderr)
                # Out of the way: it would be taken for the newest again.
                with contextlib.suppress(OSError):
                    shutil.rmtree(other.with_name(f"{other.name}.unreadable"), ignore_errors=True)
                    other.rename(other.with_name(f"{other.name}.unreadable"))
            return found
        if broken:
            folder, reason = broken[0]
            every = "Delete it" if len(broken) == 1 else "Nor can the one before it: delete both"
            raise AmbientSolveError(f"{folder} cannot be read ({reason}). {every} to start again.")
        return 0, 0.0


def _read(
    folder: Path, model: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Take over the checkpoint in `folder` and return its step and seconds; the optimiser comes last."""
    record = json.loads((folder / "state.json").read_text())
    step, seconds = record["step"], record["seconds"]
    with torch.no_grad():
        for own, name in ((learned(model), "model"), (ema, "ema")):
            found = load_file(folder / f"{name}.safetensors")
            for key, tensor in own.items():
                tensor.copy_(like(found[key], tensor))
    parameters, state = [p for group in optimizer.param_groups for p in group["params"]], {}
    for name, tensor in load_file(folder / "optimizer.safetensors").items():
        i, key = name.split(".", 1)
        entry = state.setdefault(int(i), {})
        if "/" in key:
            outer, key = key.split("/")
            entry = entry.setdefault(outer, {})
        whole = tensor.shape == parameters[int(i)].shape
        entry[key] = like(tensor, parameters[int(i)]) if whole else tensor
        entry[key] = int(tensor) if tensor.ndim == 0 and not tensor.is_floating_point() else entry[key]
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    # In the parameter's memory layout, as Adam makes its moments: a resumed step then runs the same kernels.
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return step, seconds


def _flat(state: dict[str, Any]) -> dict[str, Any]:
    """The state of one parameter; what stands in a mapping in it by OUTER/INNER, copied, as parameters share tables."""
    inner = [(k, own) for k, own in state.items() if isinstance(own, dict)]
    nested = {f"{k}/{name}": torch.as_tensor(v).clone() for k, own in inner for name, v in own.items()}
    return {k: v for k, v in state.items() if not isinstance(v, dict)} | nested


def learned(model: nn.Module) -> dict[str, Tensor]:
    """The weights that a run changes, by name: those of `model` that ask for a gradient."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name in names}


def put(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put weights into a model, in place.

    Args:
        model: The model.
        weights: Those that it learns, all of them, by name.

    Raises:
        KeyError: they are others.
    """
    if other := weights.keys() ^ learned(model).keys():
        raise KeyError(f"{sorted(other)[0]} is in the model or in the weights alone")
    model.load_state_dict(weights, strict=False)


def stored_form(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on the CPU, gathered where they are sharded: then called by all processes."""
    whole = {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in tensors.items()}
    return {k: v.detach().cpu().contiguous() for k, v in whole.items()}


def like(whole: Tensor, tensor: Tensor) -> Tensor:
    """A tensor placed as another one is.

    Args:
        whole: A tensor that is not sharded.
        tensor: One of the same shape, sharded or not.

    Returns:
        `whole` on the device of `tensor`, and sharded as that is.
    """
    whole = whole.to(tensor.device)
    return distribute_tensor(whole, tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else whole


def refuse_another_run(out: Path, settings: dict[str, Any], grows: str = "") -> Any:
    """Refuse a folder that holds a checkpoint of a run with other settings.

    Args:
        out: The folder.
        settings: What the run depends on.
        grows: A setting that alone may be larger than it was.

    Returns:
        What that one was, where it has grown; else None.

    Raises:
        AmbientSolveError: it holds one.
    """
    path, settings = out / "run.json", json.loads(json.dumps(settings))
    if not path.is_file() or not Checkpoints(out).all():
        return None
    added = {k: v for k, v in ADDED.items() if k in settings}
    before = {**added, **json.loads(path.read_text())}
    changed = [k for k in {**before, **settings} if before.get(k) != settings.get(k)]
    if changed == [grows] and settings[grows] > before[grows]:
        return before[grows]
    if changed:
        values = [(k, before.get(k), settings.get(k)) for k in changed]
        plain = [f"{k} was {a} and is {b}" for k, a, b in values if not isinstance(a or b, (dict, list))]
        raise AmbientSolveError(
            f"{out} holds a run with another configuration ({', '.join(changed)}). Choose another --out, or delete it"
            f"{'; ' + ', '.join(plain[:NAMED]) if plain else ''}"
            f"{', which may grow and not shrink' if changed == [grows] else ''}."
        )
    return None


def remember(out: Path, settings: dict[str, Any], main: bool) -> None:
    """Store the settings in the folder of the run.

    Args:
        out: The folder.
        settings: What the run depends on.
        main: Whether this is the main process, which writes.
    """
    if main:
        out.mkdir(parents=True, exist_ok=True)
        replace_text(out / "run.json", json.dumps(settings, indent=2))


def agree_on(step: int, accelerator: Accelerator) -> None:
    """Refuse to go on where the processes start at different steps: they do not see the same folder.

    Args:
        step: Where this process starts.
        accelerator: Of all processes.

    Raises:
        AmbientSolveError: they differ.
    """
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device))
    if int(steps.min()) != int(steps.max()):
        raise AmbientSolveError(
            f"The processes found checkpoints of steps {steps.tolist()}: give an --out that all machines see."
        )


class Statistics:
    """Mean loss by noise level since the last row, over all processes: rows of stats.jsonl, and TensorBoard."""

    def __init__(self, path: Path, accelerator: Accelerator) -> None:
        self.path, self.accelerator = path, accelerator
        self.edges = torch.tensor(BUCKETS, device=accelerator.device)
        self.sums = torch.zeros(2, len(BUCKETS) + 1, device=accelerator.device)

    def add(self, sigma: Tensor, losses: Tensor) -> None:
        """Count the losses of one micro-batch.

        Args:
            sigma: Noise levels, (B,).
            losses: (B,).
        """
        bucket = torch.bucketize(sigma.to(self.edges.device), self.edges)
        self.sums[0].index_add_(0, bucket, losses)
        self.sums[1].index_add_(0, bucket, torch.ones_like(losses))

    def write(self, step: int, images: int, lr: float, held_out: dict[str, float]) -> float:
        """Write a row and start the next one; all processes call it.

        Args:
            step: Training steps done.
            images: Samples seen.
            lr: Learning rate.
            held_out: Held-out loss by level; empty where it was not measured.

        Returns:
            Mean loss since the last row.

        Raises:
            AmbientSolveError: the loss is not finite.
        """
        loss, count = self.accelerator.reduce(self.sums.clone(), "sum").cpu()
        self.sums.zero_()
        names = [f"<={b}" for b in BUCKETS] + [f">{BUCKETS[-1]}"]
        buckets = {n: float(s / c) for n, s, c in zip(names, loss, count, strict=True) if c > 0}
        row = {"step": step, "images": images, "loss": float(loss.sum() / count.sum()), "lr": lr, "buckets": buckets}
        if held_out:
            row["held out"] = held_out
        if not math.isfinite(row["loss"]):
            raise AmbientSolveError(
                f"The loss is {row['loss']} before step {step}: lower lr and start again in another --out."
            )
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        values = {"loss": row["loss"], "lr": lr, **{f"loss {n}": v for n, v in buckets.items()}}
        values |= {f"held out {n}": v for n, v in held_out.items()}
        self.accelerator.log(values, step=step)
        return row["loss"]

    @property
    def unwritten(self) -> list[list[float]] | None:
        """What was summed up since the last row; None where that is nothing."""
        return self.sums.tolist() if bool(self.sums.any()) else None

    def go_on(self, sums: list[list[float]] | None) -> None:
        """Go on with sums that a checkpoint has kept."""
        if sums:
            self.sums.copy_(torch.tensor(sums, dtype=self.sums.dtype))

    def trim(self, step: int) -> None:
        """Drop the rows later than the checkpoint, and a torn last one: they will be written again."""
        if self.accelerator.is_main_process and self.path.is_file():
            rows = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
            replace_text(self.path, "".join(row for row in rows if json.loads(row)["step"] <= step))
