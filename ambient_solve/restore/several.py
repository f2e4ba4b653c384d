"""Several damages of one picture: `make_task("inpaint+denoise+jpeg", ...)`, in any order.

What was measured, outermost first, is scratches over a file over noise over a blur over a reduction: each damage is
described as it is seen in the picture at hand. All but the file is one linear operator; the file is measured by its
coefficients, which is linear, too (`operators.coefficients`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ambient_solve.errors import AmbientSolveError, UnreadableFile, suggestion
from ambient_solve.knobs import Knob, knob, knobs
from ambient_solve.restore.enlarged import Enlarged
from ambient_solve.restore.old import OldPhotograph
from ambient_solve.restore.shake import CameraShake
from ambient_solve.restore.tasks import TASKS, Blurred, Denoise, Inpaint, JpegBlocks, Measured, SuperResolution, Task

if TYPE_CHECKING:
    from pathlib import Path

    from deepinv.physics import Physics
    from torch import Tensor

    from ambient_solve.restore.pictures import Picture

SIGN = "+"
"""Between the names of damages."""
WHOLE: dict[str, type[Task]] = {cls.name: cls for cls in (OldPhotograph, CameraShake, Enlarged)}
"""Damages that stand alone: what they are is found in the picture."""


@functools.cache
def task_class(name: str) -> type[Task]:
    """The class of a damage, or of several joined by "+", in any order.

    Args:
        name: Such as "denoise" or "inpaint+denoise+jpeg".

    Returns:
        The class; of several it has the knobs of all.

    Raises:
        AmbientSolveError: there is no such damage, or two do not go together.
    """
    known = {**TASKS, **WHOLE}
    words = [word.strip() for word in name.split(SIGN)]
    for word in words:
        if word not in known:
            joined = f" Several are joined by {SIGN}: inpaint+denoise." if len(words) == 1 else ""
            raise AmbientSolveError(f"There is no task {word!r}. {suggestion(word, known)}{joined}")
    if len(words) == 1:
        return known[name.strip()]
    for word in words:
        if words.count(word) > 1:
            raise AmbientSolveError(f"The task {name} names {word} twice; once is enough.")
        if word in WHOLE:
            others = SIGN.join(other for other in words if other != word)
            raise AmbientSolveError(
                f"{word} stands alone and is not combined with {others}: name the damages that there are, such as "
                "inpaint+denoise+jpeg."
            )
    return _combined(tuple(sorted(words, key=list(TASKS).index)))


@functools.cache
def _combined(names: tuple[str, ...]) -> type[Several]:
    """The class of several damages, in the order of `TASKS`: their knobs, each once, and one noise level."""
    parts, every = tuple(TASKS[name] for name in names), {}
    for part in parts:
        for k in knobs(part):
            own = every.get(k.name, k)
            every[k.name] = dataclasses.replace(own, auto=own.auto or k.auto)
    level = next((k for k in knobs(Denoise) if k.name == "sigma" and Denoise in parts), every["sigma"])
    every["sigma"] = dataclasses.replace(level, auto=True)
    made = dataclasses.make_dataclass(
        "Several",
        [(k.name, k.type, _field(k)) for k in every.values()],
        bases=(Several,),
        frozen=True,
        kw_only=True,
        namespace={
            "name": SIGN.join(names),
            "parts": parts,
            "required": tuple(dict.fromkeys(word for part in parts for word in part.required)),
            "__doc__": f"Several damages: {', '.join(names)}.",
        },
    )
    made.__module__ = __name__
    return made


def _field(k: Knob) -> Any:
    return knob(k.default, k.lo, k.hi, k.help, choices=k.choices, auto=k.auto)


@dataclass(frozen=True, kw_only=True)
class Several(Task):
    """Several damages of one picture; `task_class` makes the class of each combination."""

    parts: ClassVar[tuple[type[Task], ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        blurs = [part.name for part in self.parts if issubclass(part, Blurred)]
        if len(blurs) > 1 and getattr(self, "kernel", None) is not None:
            raise AmbientSolveError(
                f"{self.name}: a kernel describes one blur; name {blurs[0]} or {blurs[1]}, not both."
            )
        if len(blurs) > 1 and set(self.unknown) - {"sigma"}:
            raise AmbientSolveError(
                f"{self.name}: {', '.join(self.unknown)} cannot be estimated of two blurs at once; name one of them."
            )

    def singles(self, **changed: Any) -> tuple[Task, ...]:
        """Each damage by itself, with its own knobs; `changed` are set in all that have them."""
        return tuple(_single(self, part, changed) for part in self.parts)

    def measure(self, picture: Picture) -> Measured:
        """See `Task.measure`."""
        self.require_known()
        return measure_parts(self.singles(), picture, self.sigma)

    def operator(self, picture: Picture) -> Physics:
        """See `Task.operator`; of what `measure` returns, which for a JPEG is not the picture itself."""
        return self.measure(picture).op

    def frame(self, samples: Tensor, picture: Picture) -> Tensor:
        """See `Task.frame`: the middle, as large as the picture, times the factor of its reduction."""
        factor = getattr(self, "factor", 1)
        height, width = (factor * n for n in picture.y.shape[-2:])
        top, left = (samples.shape[-2] - height) // 2, (samples.shape[-1] - width) // 2
        return samples[..., top : top + height, left : left + width]

    def notes(self, picture: Picture) -> tuple[str, ...]:
        """See `Task.notes`."""
        return tuple(dict.fromkeys(note for one in self.singles(**self.known()) for note in one.notes(picture)))

    def sources(self, picture: Path) -> list[bytes]:
        """The files of all of them."""
        return [source for one in self.singles(**self.known()) for source in one.sources(picture)]

    def known(self) -> dict[str, Any]:
        """A value for each knob that is still to be estimated, where it does not matter which."""
        own = {k.name: k for k in knobs(type(self))}
        return {name: max(own[name].default, own[name].lo or 0, 1e-3) for name in self.unknown}


def _single(task: Task, part: type[Task], changed: dict[str, Any]) -> Task:
    own = {k.name: k for k in knobs(part)}
    values = {name: changed.get(name, getattr(task, name)) for name in own}
    level = values.get("sigma")
    if isinstance(level, float) and own["sigma"].lo is not None:
        values["sigma"] = max(level, own["sigma"].lo)
    elif isinstance(level, str) and not own["sigma"].auto:
        values["sigma"] = own["sigma"].default
    return part(**values)


def measure_parts(parts: Sequence[Task], picture: Picture, sigma: float) -> Measured:
    """The measurement of a picture by several damages.

    Args:
        parts: The damages, in any order, each at most once.
        picture: The picture.
        sigma: Noise level of the picture, before it was stored as JPEG.

    Returns:
        What is measured, the operator that measured it, and the level of its noise.
    """
    from ambient_solve.operators import compose

    y, chain, mask = picture.y, [], None
    size = tuple(y.shape[1:])
    for part in parts:
        if isinstance(part, Inpaint):
            mask = part.operator(picture).mask
    coded = next((part for part in parts if isinstance(part, JpegBlocks)), None)
    if coded is not None:
        chain.append(coefficients(coded, picture, sigma, mask))
        y = chain[0].measure(y)
    elif mask is not None:
        from ambient_solve.operators import inpaint

        chain.append(inpaint(mask, sigma, size[0]))
    for part in (*_of(parts, Blurred), *_of(parts, SuperResolution)):
        import torch

        chain.append(part.operator(replace(picture, y=torch.zeros(1, *size))))
        size = tuple(chain[-1].img_size)
    if not chain:
        from ambient_solve.operators import denoise

        chain.append(denoise(size, sigma))
    op = compose(*reversed(chain), sigma=None if coded is not None else sigma)
    return Measured(y, op, None if coded is not None else picture.sigma_of_each(sigma))


def _of(parts: Sequence[Task], kind: type[Task]) -> list[Task]:
    return [part for part in parts if isinstance(part, kind)]


def coefficients(coded: JpegBlocks, picture: Picture, sigma: float, mask: Tensor | None) -> Any:
    """The coefficients that the file of a picture holds, as `operators.coefficients` measures them.

    Args:
        coded: Says the quality where the file does not.
        picture: The picture.
        sigma: Its noise before it was stored.
        mask: Observed pixels, (1, C, H, W), or None.

    Returns:
        The operator.

    Raises:
        AmbientSolveError: the quality is not known, or the file is in printing colors.
    """
    from ambient_solve.operators import JpegCoefficients

    file = coded.operator(picture)
    if file.black is not None:
        raise UnreadableFile(
            picture.path,
            "is a JPEG in printing colors (CMYK), of which jpeg is no part of several tasks: use it alone.",
        )
    return JpegCoefficients(
        tuple(picture.y.shape[1:]),
        file.quality,
        sigma,
        file.subsampling,
        tables=file.tables,
        orientation=file.orientation,
        space=file.space,
        mask=None if mask is None else mask[0, 0],
        gray=picture.copies > 1,
    )
