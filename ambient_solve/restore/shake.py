"""The camera moved while the picture was taken: its path is found from the picture, as a kernel of any shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import AUTO, knob
from ambient_solve.restore.pictures import Picture
from ambient_solve.restore.tasks import SIGMA, Blurred

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 0.002
"""Noise level that is assumed at least."""
LEEWAY = 3.0
"""What the noise level is multiplied by once the kernel is an estimate: what that misses is not to be fitted. Of 1, 1.5,
2 and 3 the last restored best, by 3 dB over 1 (`python benchmarks/blind.py --kernels KERNELS.npz --restore`)."""


@final
@dataclass(frozen=True, kw_only=True)
class CameraShake(Blurred):
    """Blurred by a camera that moved along any path, the same everywhere in the picture."""

    name: ClassVar[str] = "camera-shake"
    sigma: float = knob(AUTO, *SIGMA, auto=True)
    kernel: Any = knob(None, help="picture of the path, in place of the one that is found")
    size: int = knob(27, 5, 99, "side of a square that surely holds the path, in pixels, odd")

    def prepared(self, picture: Picture) -> tuple[CameraShake, tuple[str, ...]]:
        """See `Task.prepared`: the noise level is estimated, and the kernel, unless there is a picture of it."""
        if self.kernel is not None:
            return self, ()
        from ambient_solve.blind import estimate_kernel
        from ambient_solve.restore.estimate import noise_level

        sigma = self.sigma if self.sigma != AUTO else max(float(noise_level(picture.y)[0]), LEAST)
        # A gray picture in three channels is one measurement.
        y = picture.y[:, :1] if picture.copies > 1 else picture.y
        found = estimate_kernel(y, self.size, sigma)
        words = f"found {found.words}; kernel.png shows it, and --kernel takes another"
        leeway = f"as the kernel is an estimate, {LEEWAY:g} times the noise level of {sigma:.2g} is assumed"
        return replace(self, kernel=found.kernel, sigma=LEEWAY * sigma), (words, leeway)

    def describe(self) -> Tensor:
        """See `Blurred.describe`: nothing but the picture itself describes it."""
        raise AmbientSolveError(
            "camera-shake: the path has not been estimated yet; restore_file estimates it, and so does "
            "restore.unknown.with_estimates(task, picture)."
        )

    def masks(self, picture: Picture) -> dict[str, Tensor]:
        """See `Task.masks`: the kernel, its largest value white."""
        found = self.kernel is not None and not isinstance(self.kernel, (str, Path))
        return {"kernel": self.kernel / self.kernel.max()} if found else {}
