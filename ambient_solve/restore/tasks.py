"""What is wrong with a picture file: a frozen set of knobs that builds the operator for a picture of any size.

The file is the measurement itself. torch is imported when the first file is read: the tasks are listed in an instant.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.knobs import AUTO, build, check_knobs, knob, knobs
from ambient_solve.restore.jpeg_files import jpeg_coding
from ambient_solve.restore.pictures import Picture, black_ink, kernel_notes, mask_notes, read_kernel, read_mask
from ambient_solve.restore.wrapping import wraps

if TYPE_CHECKING:
    from deepinv.physics import Physics
    from torch import Tensor

SIGMA = (1e-4, 10.0, "noise level, where pixel values go from 0 to 1; denoise has no default")
"""Range and help of the knob that is the noise level."""
KERNEL_PIXELS = 4_000_000
"""A picture of a kernel, with its black edges, has no more pixels than this, or than the blurred picture."""
KERNEL = "picture of the blur kernel, in place of the one described"
"""Help of the knob that is a kernel."""
BOUNDARY = "valid: what lies outside the frame was blurred into it; circular: the picture repeats, which is faster"
"""Help of the knob that is a boundary."""


ALIGNMENT = "where its pixels lie: centers, as Pillow, OpenCV and MATLAB do, or corner, as deepinv does"
"""Help of the knob that is an alignment."""


@final
@dataclass(frozen=True, eq=False)
class Measured:
    """What is handed to a solver.

    Attributes:
        y: The measurement. op: The operator that measured it.
        sigma_y: The level of its noise, one or one for each entry; None where that is `op`'s own.
        chi2: Gives the misfit of samples (B, S, C, H, W) where `y` holds more than what was measured; else None.
    """

    y: Tensor
    op: Physics
    sigma_y: float | Tensor | None = None
    chi2: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """What happened to a picture, with `sigma` the noise in it.

    Some of the numbers may be "auto": `restore.unknown.with_estimates` estimates them from the picture.
    """

    name: ClassVar[str]
    required: ClassVar[tuple[str, ...]] = ()
    """Knobs that must be given: their default is none that works."""
    sigma: float = knob(0.02, *SIGMA)

    def __post_init__(self) -> None:
        check_knobs(self)

    @abc.abstractmethod
    def operator(self, picture: Picture) -> Physics:
        """The operator that measured this picture."""

    def measure(self, picture: Picture) -> Measured:
        """The measurement that the picture is, with its operator and its noise: the pixels, unless overridden."""
        return Measured(picture.y, self.operator(picture), picture.sigma_of_each(self.sigma))

    def prepared(self, picture: Picture) -> tuple[Task, tuple[str, ...]]:
        """The task with what is found in the picture, such as its scratches, and what to say of that."""
        return self, ()

    def masks(self, picture: Picture) -> dict[str, Tensor]:
        """What was found in the picture, to be saved beside the result: (H, W), 0 to 1, by the name of the file."""
        return {}

    @property
    def unknown(self) -> tuple[str, ...]:
        """The knobs that are "auto"."""
        return tuple(k.name for k in knobs(type(self)) if k.auto and getattr(self, k.name) == AUTO)

    def require_known(self) -> None:
        """Raise `AmbientSolveError` if a number is still to be estimated."""
        if self.unknown:
            raise AmbientSolveError(
                f"{self.name}: {', '.join(self.unknown)} is 'auto' and has no number yet; restore_file estimates it, "
                "and so does restore.unknown.with_estimates(task, picture)."
            )

    def to_output(self, samples: Tensor, picture: Picture) -> Tensor:
        """What the user gets of restored samples: the part that the picture shows, and grey samples of a grey picture.

        Args:
            samples: (B, S, C, H, W).
            picture: The measurement.

        Returns:
            (B, S, C, h, w).
        """
        return picture.untinted(self.frame(samples, picture))

    def frame(self, samples: Tensor, picture: Picture) -> Tensor:
        """The part of restored samples that the picture shows: all of it unless overridden.

        Args:
            samples: (B, S, C, H, W).
            picture: The measurement.

        Returns:
            (B, S, C, h, w).
        """
        return samples

    def notes(self, picture: Picture) -> tuple[str, ...]:
        """What was made of the files that this damage reads beside the picture, in words."""
        return ()

    def sources(self, picture: Path) -> list[bytes]:
        """What this damage reads beside its knobs, byte by byte: it tells one request from another."""
        return []


@final
@dataclass(frozen=True, kw_only=True)
class Inpaint(Task):
    """Pixels are missing."""

    name: ClassVar[str] = "inpaint"
    required: ClassVar[tuple[str, ...]] = ("mask",)
    mask: Any = knob(
        None, help="picture in which white (128 and above) is MISSING, or a folder with one for each picture"
    )
    """A path; or a tensor (H, W), which as everywhere in the library has 1 = observed."""

    def operator(self, picture: Picture) -> Physics:
        """See `Task.operator`."""
        from ambient_solve.operators import inpaint

        path = self._file(picture.path)
        mask = self.mask if path is None else read_mask(path, picture.y.shape[-2:], picture.path.name)
        return inpaint(mask, self.sigma, picture.y.shape[1])

    def notes(self, picture: Picture) -> tuple[str, ...]:
        """See `Task.notes`."""
        path = self._file(picture.path)
        return () if path is None else mask_notes(path, picture.y.shape[-2:])

    def sources(self, picture: Path) -> list[bytes]:
        """The mask."""
        path = self._file(picture)
        return [self.mask.cpu().float().numpy().tobytes() if path is None else path.read_bytes()]

    def _file(self, picture: Path) -> Path | None:
        """The mask of this picture: in a folder of masks, the one with its name; None for a tensor."""
        if self.mask is None:
            raise AmbientSolveError(
                "inpaint needs a mask: a picture of the same size, white where pixels are missing (--mask)."
            )
        if not isinstance(self.mask, (str, Path)):
            return None
        mask = Path(self.mask)
        if mask.is_dir():
            found = sorted(p for p in mask.iterdir() if p.is_file() and p.stem == picture.stem)
            if not found:
                raise AmbientSolveError(
                    f"The folder {mask} has no mask for {picture.name}: a file named {picture.stem}.png."
                )
            return found[0]
        return mask


@final
@dataclass(frozen=True, kw_only=True)
class Denoise(Task):
    """Nothing but noise."""

    name: ClassVar[str] = "denoise"
    required: ClassVar[tuple[str, ...]] = ("sigma",)
    sigma: float = knob(0.0, 0.0, SIGMA[1], "noise level, where pixel values go from 0 to 1; must be given", auto=True)

    def operator(self, picture: Picture) -> Physics:
        """See `Task.operator`."""
        from ambient_solve.operators import denoise

        self.require_known()
        if self.sigma < SIGMA[0]:
            raise AmbientSolveError("denoise needs the noise level: sigma above 0, such as 0.1 (--sigma 0.1).")
        return denoise(_size(picture), self.sigma)


@dataclass(frozen=True, kw_only=True)
class Blurred(Task, abc.ABC):
    """Blurred by a kernel that is described, or given as a picture."""

    sigma: float = knob(0.02, *SIGMA, auto=True)
    kernel: Any = knob(None, help=KERNEL)
    """A path; or a tensor (h, w), its sides odd."""
    boundary: str = knob("valid", choices=("valid", "circular"), help=BOUNDARY)

    @abc.abstractmethod
    def describe(self) -> Tensor:
        """The kernel (h, w) that the knobs describe; sides odd."""

    def operator(self, picture: Picture) -> Physics:
        """See `Task.operator`."""
        self.require_known()
        path = self._file()
        kernel = self.describe() if self.kernel is None else self.kernel
        kernel = kernel if path is None else read_kernel(path, _most(picture))
        return _blur(kernel, picture, self.sigma, self.boundary)

    def frame(self, samples: Tensor, picture: Picture) -> Tensor:
        """See `Task.frame`: what was restored beyond the frame of the blurred picture is cut off."""
        height, width = picture.y.shape[-2:]
        top, left = (samples.shape[-2] - height) // 2, (samples.shape[-1] - width) // 2
        return samples[..., top : top + height, left : left + width]

    def notes(self, picture: Picture) -> tuple[str, ...]:
        """See `Task.notes`."""
        path = self._file()
        return () if path is None else kernel_notes(path, _most(picture))

    def sources(self, picture: Path) -> list[bytes]:
        """The picture of the kernel."""
        path = self._file()
        if path is None:
            return [] if self.kernel is None else [self.kernel.cpu().float().numpy().tobytes()]
        return [path.read_bytes()]

    def _file(self) -> Path | None:
        """The picture of the kernel; None for a tensor, and where there is none."""
        return Path(self.kernel) if isinstance(self.kernel, (str, Path)) else None


@final
@dataclass(frozen=True, kw_only=True)
class GaussianBlur(Blurred):
    """Out of focus, nearly."""

    name: ClassVar[str] = "gaussian-blur"
    width: float = knob(2.0, 0.2, 100.0, "standard deviation of the blur in pixels", auto=True)

    def describe(self) -> Tensor:
        """See `Blurred.describe`."""
        import torch

        reach = math.ceil(3 * self.width)
        line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / self.width) ** 2)
        return torch.outer(line, line)


@final
@dataclass(frozen=True, kw_only=True)
class MotionBlur(Blurred):
    """Moved along a straight line."""

    name: ClassVar[str] = "motion-blur"
    length: float = knob(15.0, 1.0, 200.0, "length of the movement in pixels", auto=True)
    angle: float = knob(0.0, -360.0, 360.0, "its direction in degrees: 0 is along a row, 90 along a column", auto=True)

    def describe(self) -> Tensor:
        """See `Blurred.describe`."""
        from ambient_solve.operators.line import line_kernel

        return line_kernel(self.length, self.angle)


@final
@dataclass(frozen=True, kw_only=True)
class SuperResolution(Task):
    """Too small: the restored picture is `factor` times as high and as wide."""

    name: ClassVar[str] = "super-resolution"
    sigma: float = knob(0.02, *SIGMA, auto=True)
    factor: int = knob(2, 2, 16, "how many times higher and wider the restored picture is")
    filter: str = knob(
        "bicubic",
        choices=("bicubic", "bilinear", "gaussian", "sinc", "lanczos", "box"),
        help="how the picture was reduced",
    )
    alignment: str = knob("centers", choices=("centers", "corner"), help=ALIGNMENT)

    def operator(self, picture: Picture) -> Physics:
        """See `Task.operator`."""
        from deepinv.physics import GaussianNoise

        from ambient_solve.operators import Reduction, super_resolution

        self.require_known()
        channels, height, width = _size(picture)
        size = (channels, self.factor * height, self.factor * width)
        if self.alignment == "centers":
            return Reduction(size, self.factor, self.filter, GaussianNoise(self.sigma))
        return super_resolution(size, self.factor, self.filter, self.sigma, self.alignment)

    def notes(self, picture: Picture) -> tuple[str, ...]:
        """See `Task.notes`."""
        measured = picture.y[:, :1] if picture.copies > 1 else picture.y  # a gray one counts once
        if self.alignment == "corner" or not wraps(measured):
            return ()
        return (
            "the first and the last rows of the picture are mixed, as deepinv's Downsampling leaves them: if it was "
            "made so, give --alignment corner",
        )


@final
@dataclass(frozen=True, kw_only=True)
class JpegBlocks(Task):
    """JPEG blocks and ringing; `sigma` says how closely the file must be reproduced."""

    name: ClassVar[str] = "jpeg"
    quality: int = knob(0, 0, 100, "JPEG quality; 0 reads it from the file")

    def operator(self, picture: Picture) -> Physics:
        """See `Task.operator`."""
        from ambient_solve.operators import Jpeg, jpeg

        found = jpeg_coding(picture.path)
        if not self.quality and found is None:
            raise AmbientSolveError(
                f"{picture.path} is not stored as JPEG, so that its quality cannot be read. "
                "Give it, such as quality=10 (--quality 10)."
            )
        size = _size(picture)
        if found is None:
            return jpeg(size, self.quality, self.sigma)
        from deepinv.physics import GaussianNoise

        own = {"orientation": found.orientation, "tables": found.steps(self.quality)}
        if found.space != "YCbCr":
            own |= {"space": "RGB", "black": black_ink(picture.path) if found.space == "CMYK" else None}
        return Jpeg(self.quality or found.quality, found.subsampling, size, GaussianNoise(self.sigma), **own)

    def notes(self, picture: Picture) -> tuple[str, ...]:
        """See `Task.notes`."""
        found = None if self.quality else jpeg_coding(picture.path)
        return () if found is None or found.space != "YCbCr" else found.notes


TASKS: dict[str, type[Task]] = {
    d.name: d for d in (Inpaint, Denoise, GaussianBlur, MotionBlur, SuperResolution, JpegBlocks)
}
"""The damages by name."""


def make_task(task: str, **options: Any) -> Task:
    """A damage by its name.

    Args:
        task: One of `TASKS`, several joined by "+" in any order ("inpaint+denoise"), or one that stands
            alone: "old-photograph", "camera-shake", "enlarged".
        options: Its knobs. Where one is "auto", the noise level is too unless it is given.

    Returns:
        The damage.

    Raises:
        AmbientSolveError: there is no such damage, or it has no such option, or a value is out of its range.
    """
    from ambient_solve.restore.several import task_class

    cls = task_class(task)
    names = [k.name for k in knobs(cls)]
    for name in options:
        if name not in names:
            owners = [t for t, other in TASKS.items() if name in (k.name for k in knobs(other))]
            other = f"It belongs to {', '.join(owners)}. " if owners else ""
            raise AmbientSolveError(f"The task {cls.name} has no option {name!r}. {other}{suggestion(name, names)}")
    auto = any(isinstance(value, str) and value == AUTO for value in options.values())
    if auto and any(k.name == "sigma" and k.auto for k in knobs(cls)):
        options = {"sigma": AUTO, **options}  # what a blur leaves and what is noise are separated together
    sigma = options.get("sigma")
    if isinstance(sigma, (int, float)) and not sigma > 0:
        raise AmbientSolveError(
            f"sigma={sigma} was given, a noise level above 0 was expected (pixel values go from 0 to 1)."
        )
    return build(cls, **options)


def _most(picture: Picture) -> int:
    """Pixels of the largest picture of a kernel that is read."""
    return max(KERNEL_PIXELS, math.prod(picture.y.shape[-2:]))


def _size(picture: Picture) -> tuple[int, int, int]:
    return tuple(picture.y.shape[1:])


def _blur(kernel: Tensor, picture: Picture, sigma: float, boundary: str) -> Physics:
    """A blur with `kernel` (h, w) of odd sides, normalised to keep the brightness."""
    from deepinv.physics import Blur, BlurFFT, GaussianNoise

    channels, height, width = _size(picture)
    rows, columns = kernel.shape
    if rows > height or columns > width:
        raise AmbientSolveError(
            f"The blur kernel is {columns}x{rows} pixels, larger than {picture.path.name} ({width}x{height}). "
            "Describe a smaller blur."
        )
    settings = {"filter": (kernel / kernel.sum())[None, None], "noise_model": GaussianNoise(sigma)}
    if boundary == "circular":
        return BlurFFT(img_size=_size(picture), **settings)
    return Blur(padding="valid", img_size=(channels, height + rows - 1, width + columns - 1), **settings)
