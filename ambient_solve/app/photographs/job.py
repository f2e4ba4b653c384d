"""What the page says -> a measurement, its damage and a solver. Knows no gradio; `run` runs it.

problem = prepare(RestoreRequest("denoise", {"sigma": 0.1}), load_prior(), open_upload("old.png"))
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from deepinv.physics import Physics
from torch import Tensor

from ambient_solve.app.photographs.prompts import worded
from ambient_solve.app.photographs.request import SIZES, WORKING, RestoreRequest
from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.priors.base import Prior
from ambient_solve.priors.text import Prompt
from ambient_solve.priors.tiled import TiledPrior
from ambient_solve.restore.coarse import hole_words, needs_coarse, observed_of, with_coarse
from ambient_solve.restore.crops import Piece, crop, fit, missing_box
from ambient_solve.restore.memory import fitting, size_of
from ambient_solve.restore.old import OldPhotograph
from ambient_solve.restore.pictures import Picture, mask_notes, read_mask
from ambient_solve.restore.several import SIGN, WHOLE
from ambient_solve.restore.tasks import (
    Blurred,
    Denoise,
    Inpaint,
    JpegBlocks,
    Measured,
    SuperResolution,
    Task,
    make_task,
)
from ambient_solve.restore.unknown import with_estimates
from ambient_solve.solver import Solver, make_solver


@dataclass(frozen=True)
class PreparedRequest:
    """A request that was found to fit.

    Attributes:
        picture: The measurement at full size. piece: What of it is restored. damage: That of the piece.
        measured: What is handed to the solver, with its operator and its noise.
        at_once: How many samples are drawn together.
        mask: Measured pixels (H, W) at full size, True = measured; None where the damage is no mask.
        truth: The undamaged picture (H, W, C), known when playing. notes: What was converted, in words.
        cond: What the prior is conditioned on, words or nothing.
    """

    request: RestoreRequest
    picture: Picture
    piece: Piece
    damage: Task
    measured: Measured
    solver: Solver
    at_once: int
    mask: np.ndarray | None
    truth: np.ndarray | None
    notes: tuple[str, ...]
    cond: Prompt | None = None

    @property
    def op(self) -> Physics:
        """The operator of the piece."""
        return self.measured.op

    @property
    def tiled(self) -> TiledPrior | None:
        """The prior, where it goes through the picture in tiles."""
        height, width = size_of(self.op, self.piece.picture)
        prior = self.solver.prior
        return prior if isinstance(prior, TiledPrior) and max(height, width) > prior.tile else None

    @property
    def tiles(self) -> int:
        """How many tiles the picture has; 1 where it is whole."""
        return 1 if self.tiled is None else self.tiled.tiles(*size_of(self.op, self.piece.picture))

    @property
    def before(self) -> np.ndarray:
        """The measurement (H, W, C) at full size."""
        return _array(self.picture.y)


def prepare_request(request: RestoreRequest, prior: Prior, picture: Picture) -> PreparedRequest:
    """Check a request before the first network call.

    Args:
        request: What is to be restored, and how.
        prior: Of as many channels as the picture.
        picture: The measurement; or, when playing, what is damaged to make one.

    Returns:
        What `run` takes.

    Raises:
        AmbientSolveError: the request does not fit the picture.
    """
    if request.samples < 1:
        raise AmbientSolveError(f"{request.samples} samples were asked for, at least 1 was expected.")
    if request.size not in SIZES:
        raise AmbientSolveError(f"There is no working size {request.size!r}. {suggestion(request.size, SIZES)}")
    make_solver(prior, request.algorithm, request.knobs)
    request, cond = worded(request, prior)
    if prior.affine is None and request.size == "auto":
        request = replace(request, size="whole")  # a decoder has no seams to hide
    notes, truth, files = list(picture.notes), None, {}
    missing = _missing(request, tuple(picture.y.shape[-2:]), picture.path.name)
    if missing is not None:
        files = {"mask": torch.from_numpy(~missing).float()}
        notes += [] if request.mask is None else mask_notes(request.mask, picture.y.shape[-2:])
    if request.kernel is not None:
        files["kernel"] = str(request.kernel)
    damage = make_task(request.task, **request.options, **files)
    if request.play:
        if isinstance(damage, Blurred) and damage.boundary != "circular":
            damage = replace(damage, boundary="circular")
            notes.append("playing, the blur wraps round at the edges of the picture")
        picture, truth = damage_for_play(picture, damage, request.seed)
    damage, found, _ = with_estimates(damage, picture)
    seen = damage.mask if isinstance(getattr(damage, "mask", None), Tensor) else None
    piece, how = _piece(request, damage, picture, seen)
    tiled = TiledPrior(prior) if how == "tiles" else None
    if piece.mask is not None:
        damage = replace(damage, mask=piece.mask)
    damage = replace(damage, sigma=damage.sigma * piece.noise)
    notes += [*map(_on_the_page, found), *damage.notes(piece.picture), *_size_words(how, piece)]
    solver = make_solver(prior if tiled is None else tiled, request.algorithm, request.knobs)
    measured = damage.measure(piece.picture)
    observed = None if prior.affine is None else observed_of(damage, piece.picture)
    at_once, small = fitting(solver, measured.op, piece.picture, request.samples)
    if small is not None:
        solver = make_solver(small, request.algorithm, request.knobs)
        notes.append("restored in tiles, the memory that is free does not hold it whole")
    if not (solver.algorithm is not None and solver.algorithm.interacting) and prior.device.type == "cpu":
        at_once = 1  # as fast as several, and a cancelled run keeps what is finished
    if observed is not None and needs_coarse(observed):
        notes.append(hole_words(observed))
        measured = with_coarse(prior, piece.picture, observed, damage.sigma, request.seed)
    measured = replace(measured, op=measured.op.to(prior.device))
    shown, mask = None if truth is None else _array(truth), None if seen is None else seen.numpy() > 0
    prepared = (request, picture, piece, damage, measured, solver, at_once, mask, shown, tuple(notes))
    return PreparedRequest(*prepared, cond)


def _on_the_page(note: str) -> str:
    """What was found in the picture, without the files and flags of the command line."""
    return note.partition("; ")[0] if "--" in note else note


def damage_for_play(picture: Picture, damage: Task, seed: int) -> tuple[Picture, Tensor]:
    """Damage a picture for play.

    Args:
        picture: The undamaged one.
        damage: What is done to it.
        seed: Of the noise.

    Returns:
        The damaged picture, and the part of the undamaged one (1, C, H, W) that a restoration is compared with.

    Raises:
        AmbientSolveError: the picture is smaller than the factor of a super-resolution, or there are several damages.
    """
    if SIGN in damage.name or damage.name in WHOLE:
        raise AmbientSolveError("Playing damages a picture in one way at a time: choose one, and untick the others.")
    x = small = picture.y
    if isinstance(damage, SuperResolution):
        height, width = (n // damage.factor for n in x.shape[-2:])
        if not height or not width:
            raise AmbientSolveError(f"The picture is smaller than the factor {damage.factor}. Choose a smaller factor.")
        x, small = x[..., : height * damage.factor, : width * damage.factor], x[..., :height, :width]
    op = damage.operator(replace(picture, y=small))
    with torch.no_grad():
        y = op.A(x)
    if not isinstance(damage, JpegBlocks):  # its sigma says how closely a file must be reproduced, it is no noise
        y = y + damage.sigma * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
    if isinstance(damage, Inpaint):
        y = y * op.mask
    # The noise of the three channels is independent, even where the picture is grey.
    return replace(picture, y=y, copies=1), x


def _missing(request: RestoreRequest, size: tuple[int, int], name: str) -> np.ndarray | None:
    """The missing pixels (H, W): painted, in the file of the mask, or lost at random; None where there are none."""
    parts = request.task.split(SIGN)
    if not {Inpaint.name, OldPhotograph.name} & set(parts):
        return None
    missing = np.zeros(size, bool)
    if request.painted is not None and request.painted.any():
        drawn = torch.from_numpy(request.painted[None, None].astype(np.float32))
        missing |= torch.nn.functional.interpolate(drawn, size=size, mode="nearest-exact")[0, 0].numpy() > 0
    if request.mask is not None:
        missing |= read_mask(request.mask, size, name).numpy() == 0
    if request.play and request.scattered > 0:
        missing |= np.random.default_rng(request.seed).random(size) < request.scattered
    if not missing.any() and Inpaint.name not in parts:
        return None  # the scratches are found
    if not missing.any():
        raise AmbientSolveError(
            "Nothing is marked as missing: paint over the missing part of the picture, or upload a mask that is white "
            "where pixels are missing."
        )
    if missing.all():
        raise AmbientSolveError("The whole picture is marked as missing: leave a part of it unpainted.")
    return missing


def _piece(request: RestoreRequest, damage: Task, picture: Picture, seen: Tensor | None) -> tuple[Piece, str]:
    """The part of the picture to restore, and which of SIZES that is; what is damaged all over has no region."""
    height, width = picture.y.shape[-2:]
    longer, how = max(height, width) * getattr(damage, "factor", 1), request.size
    missing_alone = isinstance(damage, Inpaint) and seen is not None
    box = missing_box(seen) if missing_alone else (0, 0, height, width)
    if how == "auto":
        local = missing_alone and max(box[2] - box[0], box[3] - box[1]) <= WORKING
        how = "whole" if longer <= WORKING else "region" if local else "tiles"
    if how == "region":
        if not missing_alone:
            raise AmbientSolveError("There is no missing region to cut out: choose tiles, or the whole picture.")
        return crop(picture, box, seen), how
    if how == "reduced":
        if not isinstance(damage, (Inpaint, Denoise)):
            raise AmbientSolveError(
                f"A reduced picture is no longer damaged by {damage.name} as stated: choose tiles or the whole."
            )
        return fit(picture, WORKING, seen), how
    return crop(picture, (0, 0, height, width), seen), how


def _size_words(how: str, piece: Piece) -> list[str]:
    """The working size, where it is not that of the picture."""
    (height, width), (h, w) = piece.whole.y.shape[-2:], piece.picture.y.shape[-2:]
    if (h, w) == (height, width):
        return ["restored in overlapping tiles, denoised together"] if how == "tiles" and max(h, w) > 256 else []
    part = "the missing region and what is round it" if how == "region" else "the picture, reduced"
    return [f"restored at a working size of {w}x{h} pixels ({part}) and pasted back into {width}x{height}"]


def _array(x: Tensor) -> np.ndarray:
    return x[0].permute(1, 2, 0).cpu().numpy()
