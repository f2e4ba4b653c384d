"""The pictures of a domain: those of a folder, or, for anybody and offline, what scikit-image ships and phantoms.

Offline, photographs are squares of five pictures of scikit-image, reduced by two; faces are the hundred of its sample
of LFW, 25 pixels wide; brain scans are no scans but head phantoms, ellipses drawn at random. That is enough to try the
testbed and to compare curation, not to publish numbers on faces or brains: for that give a folder or pack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ambient_solve.data.images import read_images
from ambient_solve.data.seeds import generator
from ambient_solve.errors import AmbientSolveError, suggestion

Named = tuple[str, Tensor]
"""A name and a picture, uint8 (C, H, W)."""
FLAT = 10.0
"""Standard deviation, in gray levels, below which a square shows too little to be used."""
PHANTOMS = 320
"""Head phantoms of the offline domain."""
FACE = 25
"""Side of the faces that scikit-image ships, in pixels."""


@dataclass(frozen=True)
class Domain:
    """A domain of pictures.

    Attributes:
        channels: 1, gray, or 3, color.
        own: Makes its offline pictures of a side.
        foreign: Makes offline pictures of another domain, of that side and as many channels.
        what: What they are, in words.
    """

    channels: int
    own: Callable[[int], list[Named]]
    foreign: Callable[[int], list[Named]]
    what: str


def gather_pictures(
    name: str, side: int, data: Sequence[str] = (), foreign: Sequence[str] = ()
) -> tuple[list[Named], list[Named]]:
    """The clean pictures of a domain, and some of another, as squares of one size.

    Args:
        name: One of `DOMAINS`.
        side: Of the squares, in pixels.
        data: Folders or packs of pictures; none takes the offline ones.
        foreign: The same of the pictures of another domain.

    Returns:
        Both, uint8 (C, side, side), in a fixed order.

    Raises:
        AmbientSolveError: there is no such domain, or no pictures.
    """
    if name not in DOMAINS:
        raise AmbientSolveError(f"There is no domain {name!r}. {suggestion(name, DOMAINS)}")
    domain, found = DOMAINS[name], []
    for sources, offline in ((data, domain.own), (foreign, domain.foreign)):
        pictures = [(f"{s}/{n}", p) for s in sources for n, p in read_images(s, domain.channels)]
        own = [(n, square(p, side)) for n, p in pictures if min(p.shape[-2:]) >= side] if sources else offline(side)
        if not own:
            raise AmbientSolveError(f"No picture of {', '.join(sources)} is {side} pixels high and wide.")
        found.append(own)
    return found[0], found[1]


def square(picture: Tensor, side: int) -> Tensor:
    """The middle of a picture, reduced with anti-aliasing.

    Args:
        picture: uint8 (C, H, W), at least `side` high and wide.
        side: Of the square, in pixels.

    Returns:
        uint8 (C, side, side).
    """
    least = min(picture.shape[-2:])
    top, left = ((n - least) // 2 for n in picture.shape[-2:])
    middle = picture[:, top : top + least, left : left + least]
    return middle.clone() if least == side else _resized(middle, side, side)


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    small = F.interpolate(picture[None].float(), size=(height, width), mode="bicubic", antialias=True)[0]
    return small.round().clamp(0, 255).to(torch.uint8)


def _squares(pictures: Sequence[tuple[str, np.ndarray]], side: int, channels: int, shrink: int = 2) -> list[Named]:
    """Squares that do not overlap, of pictures (H, W) or (H, W, 3) uint8, reduced first; flat ones are left out."""
    found = []
    for name, array in pictures:
        x = torch.from_numpy(np.ascontiguousarray(array if array.ndim == 3 else array[..., None])).permute(2, 0, 1)
        x = x[:3].expand(3, -1, -1) if channels == 3 else x[:3].float().mean(0, keepdim=True).round().to(torch.uint8)
        x = _resized(x, x.shape[1] // shrink, x.shape[2] // shrink)
        for top in range(0, x.shape[1] - side + 1, side):
            for left in range(0, x.shape[2] - side + 1, side):
                cut = x[:, top : top + side, left : left + side].clone()
                if float(cut.float().mean(0).std()) >= FLAT:
                    found.append((f"{name} {top} {left}", cut))
    return found


def _photographs(side: int) -> list[Named]:
    from skimage import data

    names = ("astronaut", "chelsea", "coffee", "rocket")
    left, *_ = data.stereo_motorcycle()
    return _squares([*((n, getattr(data, n)()) for n in names), ("motorcycle", left)], side, 3)


def _documents(side: int) -> list[Named]:
    from skimage import data

    names = ("page", "text", "immunohistochemistry", "cell")
    return _squares([(n, getattr(data, n)()) for n in names], side, 3)


def _lfw(side: int, first: int) -> list[Named]:
    """A hundred gray pictures of scikit-image's sample of LFW: faces from 0, squares without a face from 100."""
    from skimage import data

    if side > FACE:
        raise AmbientSolveError(
            f"The faces that scikit-image ships are {FACE} pixels wide, {side} were asked for: give --data FOLDER."
        )
    pictures = data.lfw_subset()[first : first + 100]
    return [
        (f"lfw {first + i}", square(torch.from_numpy((255 * x).round().astype(np.uint8))[None], FACE)[:, :side, :side])
        for i, x in enumerate(pictures)
    ]


def _textures(side: int) -> list[Named]:
    from skimage import data

    return _squares([(n, getattr(data, n)()) for n in ("brick", "grass", "gravel")], side, 1)


def _phantoms(side: int) -> list[Named]:
    return [(f"phantom {i}", _phantom(side, i)) for i in range(PHANTOMS)]


def _phantom(side: int, index: int) -> Tensor:
    """A head of ellipses: skull, brain, ventricles and lesions, after Shepp and Logan (1974), drawn at random."""
    rng = generator(8, index)
    fine = 4 * side
    v, u = np.meshgrid(*2 * (np.linspace(-1, 1, fine),), indexing="ij")
    picture = np.zeros((fine, fine))
    tilt, wide, high = rng.uniform(-0.3, 0.3), rng.uniform(0.62, 0.78), rng.uniform(0.8, 0.93)
    matter = rng.uniform(0.35, 0.6)
    parts = [(0, 0, wide, high, 0, rng.uniform(0.8, 1.0)), (0, 0, wide - 0.06, high - 0.06, 0, matter)]
    for sign in (-1, 1):
        far, reach = rng.uniform(0.16, 0.26), rng.uniform(0.2, 0.38)
        lean = sign * rng.uniform(0.1, 0.4)
        parts.append((sign * far, rng.uniform(-0.1, 0.1), rng.uniform(0.07, 0.15), reach, lean, 0.12))
    for _ in range(rng.integers(3, 8)):
        place, size = rng.uniform(-0.45, 0.45, 2), rng.uniform(0.04, 0.16, 2)
        parts.append((*place, *size, rng.uniform(0, 3.1), matter + rng.uniform(-0.25, 0.35)))
    for x, y, a, b, turn, value in parts:
        angle = tilt + turn
        along = (u - x) * np.cos(angle) + (v - y) * np.sin(angle)
        across = -(u - x) * np.sin(angle) + (v - y) * np.cos(angle)
        picture = np.where((along / a) ** 2 + (across / b) ** 2 < 1, value, picture)
    return _resized(torch.from_numpy((255 * picture).round().astype(np.uint8))[None], side, side)


DOMAINS = {
    "photographs": Domain(3, _photographs, _documents, "squares of five photographs that scikit-image ships"),
    "faces": Domain(1, lambda side: _lfw(side, 0), lambda side: _lfw(side, 100), "the faces of scikit-image's LFW"),
    "brain-scans": Domain(1, _phantoms, _textures, "head phantoms drawn at random, in place of scans"),
}
"""The domains by name."""
