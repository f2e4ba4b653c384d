"""An old photograph: scratches that are found, grain and JPEG that are estimated, and nothing kept as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, final

from ambient_solve.knobs import AUTO, knob
from ambient_solve.restore.tasks import SIGMA, Denoise, GaussianBlur, Inpaint, JpegBlocks, Measured, Task

if TYPE_CHECKING:
    from pathlib import Path

    from deepinv.physics import Physics
    from torch import Tensor

    from ambient_solve.restore.pictures import Picture


@final
@dataclass(frozen=True, kw_only=True)
class OldPhotograph(Task):
    """An old photograph, scanned: scratches, grain, a little blur, and the JPEG that it was stored as."""

    name: ClassVar[str] = "old-photograph"
    sigma: float = knob(AUTO, *SIGMA, auto=True)
    mask: Any = knob(None, help="picture in which white is MISSING, in place of the scratches that are found")
    quality: int = knob(0, 0, 100, "JPEG quality; 0 reads it from the file, of other files there is none")
    width: float = knob(0.0, 0.0, 100.0, "standard deviation of its blur in pixels; 0 is sharp")
    scratches: float = knob(0.5, 0.0, 1.0, "how readily a line is taken for a scratch; 0 finds none")

    def prepared(self, picture: Picture) -> tuple[OldPhotograph, tuple[str, ...]]:
        """See `Task.prepared`: the scratches are found, unless there is a mask."""
        if self.mask is not None or self.scratches == 0:
            return self, ()
        from ambient_solve.restore.scratches import find_scratches

        observed = find_scratches(picture.y, self.scratches)
        share = 1 - float(observed.mean())
        if share == 0:
            return self, ("no scratches were found; paint them on a mask (--mask) if there are any",)
        words = (
            f"scratches were found on {share:.1%} of the pixels; mask.png shows them, correct it and give it as --mask"
        )
        return replace(self, mask=observed), (words,)

    def measure(self, picture: Picture) -> Measured:
        """See `Task.measure`."""
        from ambient_solve.restore.several import measure_parts

        self.require_known()
        return measure_parts(self._parts(picture), picture, self.sigma)

    def operator(self, picture: Picture) -> Physics:
        """See `Task.operator`."""
        return self.measure(picture).op

    def frame(self, samples: Tensor, picture: Picture) -> Tensor:
        """See `Task.frame`: what lies beyond the frame of a blurred picture is cut off."""
        return GaussianBlur(sigma=SIGMA[0]).frame(samples, picture)

    def notes(self, picture: Picture) -> tuple[str, ...]:
        """See `Task.notes`."""
        return tuple(note for part in self._parts(picture) for note in part.notes(picture))

    def sources(self, picture: Path) -> list[bytes]:
        """The mask."""
        return [] if self.mask is None else Inpaint(mask=self.mask).sources(picture)

    def masks(self, picture: Picture) -> dict[str, Tensor]:
        """See `Task.masks`: the scratches."""
        import torch

        return {"mask": 1 - self.mask} if isinstance(self.mask, torch.Tensor) else {}

    def _parts(self, picture: Picture) -> list[Task]:
        from ambient_solve.restore.jpeg_files import jpeg_coding

        level = SIGMA[0] if self.unknown else max(self.sigma, SIGMA[0])
        parts: list[Task] = [Denoise(sigma=level)]
        if self.mask is not None:
            parts.append(Inpaint(mask=self.mask))
        if self.quality or jpeg_coding(picture.path) is not None:
            parts.append(JpegBlocks(quality=self.quality))
        if self.width:
            parts.append(GaussianBlur(width=max(self.width, 0.2), sigma=level))
        return parts
