"""`ClipState`: all that the next frame of a clip needs of those before, so that a run goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.field import Field
from ambient_solve.video.warped_noise import Cells, Frame


@final
@dataclass(frozen=True, eq=False)
class ClipState:
    """Where a clip stands. Its size does not depend on how many frames are done.

    Attributes:
        number: Frames that are done.
        scene: Number of the first frame of this scene.
        frame: Where the last frame took its diffusion noise.
        white: Where it took its white noise.
        picture: What the flow of the next frame is estimated from, (C, H, W).
        support: How many of the frames so far have measured each pixel, along the motion, (H, W).
        estimates: What the denoiser gave for the last frame, call by call; none without guidance.
        levels: The levels of these calls.
    """

    number: int
    scene: int
    frame: Frame
    white: Frame
    picture: Tensor
    support: Tensor
    estimates: list[Tensor]
    levels: list[float]

    def save(self, path: str | Path) -> None:
        """Write the state, whole or not at all.

        Args:
            path: A safetensors file.
        """
        from safetensors.torch import save_file  # `save_tensors` takes no metadata

        path = Path(path)
        tensors = {"picture": self.picture, "support": self.support, **_tensors("frame", self.frame)}
        if self.white is not self.frame:
            tensors |= _tensors("white", self.white)
        if self.estimates:
            tensors["estimates"] = torch.stack(self.estimates)
        record = {"number": self.number, "scene": self.scene, "levels": self.levels}
        record |= {"frame": _record(self.frame), "white": _record(self.white), "same": self.white is self.frame}
        part = path.with_name(path.name + ".part")
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part, {"state": json.dumps(record)})
        part.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> ClipState:
        """Read what `save` wrote.

        Args:
            path: The file.

        Returns:
            The state.

        Raises:
            AmbientSolveError: it cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                record = json.loads(file.metadata()["state"])
            frames = [_frame(record["frame"], "frame", tensors)]
            frames.append(frames[0] if record["same"] else _frame(record["white"], "white", tensors))
            estimates = list(tensors["estimates"]) if "estimates" in tensors else []
            pictures = tensors["picture"], tensors["support"]
            return cls(record["number"], record["scene"], *frames, *pictures, estimates, record["levels"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            raise AmbientSolveError(
                f"{path} holds no state of a clip that can be read: delete it, and the clip begins anew."
            ) from None


def _tensors(name: str, frame: Frame) -> dict[str, Tensor]:
    found = {f"{name}.addresses": frame.addresses}
    if frame.cells is not None:
        found |= {f"{name}.{f.name}": getattr(frame.cells, f.name) for f in dataclasses.fields(Cells)}
    return found


def _record(frame: Frame) -> dict[str, object]:
    law = None if frame.law is None else dataclasses.asdict(frame.law)
    return {"kind": frame.kind, "number": frame.number, "law": law}


def _frame(record: dict, name: str, tensors: dict[str, Tensor]) -> Frame:
    law = None if record["law"] is None else Field(**record["law"])
    parts = [tensors.get(f"{name}.{f.name}") for f in dataclasses.fields(Cells)]
    cells = None if parts[0] is None else Cells(*parts)
    return Frame(record["kind"], record["number"], tensors[f"{name}.addresses"], law, cells)
