"""What a run keeps in its folder: its configuration, its statistics, and one checkpoint. Only safetensors and JSON."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError

BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)


class Checkpoints:
    """One folder `checkpoint-STEP` at a time, renamed into place when it is complete."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def save(
        self, step: int, seconds: float, model: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Write a checkpoint, then delete the ones before it."""
        part = self.out / "checkpoint.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        state = optimizer.state_dict()["state"]
        save_file(_stored(model.state_dict()), part / "model.safetensors")
        save_file(_stored(ema), part / "ema.safetensors")
        moments = {f"{i}.{k}": v for i, s in state.items() for k, v in s.items()}
        save_file(_stored(moments), part / "optimizer.safetensors")
        (part / "state.json").write_text(json.dumps({"step": step, "seconds": seconds}))
        old = self.all()
        part.rename(self.out / f"checkpoint-{step}")
        for folder in old:
            shutil.rmtree(folder)

    def all(self) -> list[Path]:
        """The complete checkpoints, the latest last."""
        found = [p for p in self.out.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdecimal()]
        return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")))

    def load(self, model: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        """Restore the latest checkpoint in place and return its step and seconds; (0, 0) where there is none."""
        if not self.all():
            return 0, 0.0
        folder = self.all()[-1]
        try:
            model.load_state_dict(load_file(folder / "model.safetensors"))
            for name, tensor in load_file(folder / "ema.safetensors").items():
                ema[name].copy_(tensor)
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in load_file(folder / "optimizer.safetensors").items():
                i, key = name.split(".", 1)
                state.setdefault(int(i), {})[key] = tensor
            record = json.loads((folder / "state.json").read_text())
            step, seconds = record["step"], record["seconds"]
        except (SafetensorError, OSError, RuntimeError, KeyError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise AmbientSolveError(f"{folder} cannot be read ({reason}). Delete it to start again.") from None
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        # In the parameter's memory layout, as Adam makes its moments: a resumed step then runs the same kernels.
        for parameter, moments in optimizer.state.items():
            for key, value in moments.items():
                if value.shape == parameter.shape:
                    moments[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        return step, seconds


def _stored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}


def refuse_another_run(out: Path, settings: dict[str, Any]) -> None:
    """Raise where the folder holds a checkpoint of a run with other settings."""
    path = out / "run.json"
    if path.is_file() and Checkpoints(out).all() and path.read_text() != json.dumps(settings, indent=2):
        before = json.loads(path.read_text())
        changed = [k for k in {**before, **settings} if before.get(k) != json.loads(json.dumps(settings)).get(k)]
        raise AmbientSolveError(
            f"{out} holds a run with another configuration ({', '.join(changed)}). Choose another --out, or delete it."
        )


def remember(out: Path, settings: dict[str, Any], main: bool) -> None:
    """Keep the settings in the run's folder."""
    if main:
        out.mkdir(parents=True, exist_ok=True)
        _replace(out / "run.json", json.dumps(settings, indent=2))


class Statistics:
    """Mean loss by noise level since the last row, over all processes: rows of stats.jsonl, and TensorBoard."""

    def __init__(self, path: Path, accelerator: Accelerator) -> None:
        self.path, self.accelerator = path, accelerator
        self.edges = torch.tensor(BUCKETS, device=accelerator.device)
        self.sums = torch.zeros(2, len(BUCKETS) + 1, device=accelerator.device)

    def add(self, sigma: Tensor, losses: Tensor) -> None:
        """Count the losses of one micro-batch, (B,), at levels sigma, (B,)."""
        bucket = torch.bucketize(sigma.to(self.edges.device), self.edges)
        self.sums[0].index_add_(0, bucket, losses)
        self.sums[1].index_add_(0, bucket, torch.ones_like(losses))

    def write(self, step: int, images: int, lr: float) -> float:
        """Write a row, start anew, and return the mean loss; called by all processes."""
        loss, count = self.accelerator.reduce(self.sums.clone(), "sum").cpu()
        self.sums.zero_()
        names = [f"<={b}" for b in BUCKETS] + [f">{BUCKETS[-1]}"]
        buckets = {n: float(s / c) for n, s, c in zip(names, loss, count, strict=True) if c > 0}
        row = {"step": step, "images": images, "loss": float(loss.sum() / count.sum()), "lr": lr, "buckets": buckets}
        if not math.isfinite(row["loss"]):
            raise AmbientSolveError(
                f"The loss is {row['loss']} before step {step}: lower lr and start again in another --out."
            )
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        values = {"loss": row["loss"], "lr": lr, **{f"loss {n}": v for n, v in buckets.items()}}
        self.accelerator.log(values, step=step)
        return row["loss"]

    def trim(self, step: int) -> None:
        """Drop the rows later than the checkpoint, and a torn last one: they will be written again."""
        if self.accelerator.is_main_process and self.path.is_file():
            rows = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
            _replace(self.path, "".join(row for row in rows if json.loads(row)["step"] <= step))


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
