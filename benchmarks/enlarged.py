"""Enlarged pictures: is it found by how much, and does it help to take it back?

    python benchmarks/enlarged.py
    python benchmarks/enlarged.py --restore 5
    python benchmarks/enlarged.py --rounding                (what a file's rounding does to the small picture)

Photographs of scikit-image are reduced, and enlarged again by Pillow; the control is not enlarged. `--restore` restores
the middle of the first ones, enlarged by two, and prints PSNR beside that of the enlarged picture itself.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

import skimage.data
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from ambient_solve import load_prior
from ambient_solve.data.images import to_tensor
from ambient_solve.restore import make_task, restore_file
from ambient_solve.restore.enlarged import enlargement, small_picture

NAMES = ("astronaut", "chelsea", "coffee", "rocket", "camera", "retina", "immunohistochemistry", "grass", "brick")
"""Photographs that scikit-image ships."""
SIDE = 240
"""Of what is cut out of them."""
FACTORS = (2, 3, 4)
"""True ones."""
WAYS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "pixels repeated": Image.Resampling.NEAREST,
}
"""True ones, by their names in the table."""
FILES = {"PNG": None, "JPEG 85": 85, "JPEG 75": 75}
"""What the result is stored as: the quality of a JPEG."""
CROP = 192
"""Side of what is restored, in pixels."""


def photograph(name: str) -> Image.Image:
    image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    left, top = ((n - SIDE) // 2 for n in image.size)
    return image.crop((left, top, left + SIDE, top + SIDE))


def stored(image: Image.Image, quality: int | None) -> Image.Image:
    if quality is None:
        return image
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def again(image: Image.Image, factor: int, way: Image.Resampling) -> Image.Image:
    """Reduced, and enlarged again."""
    return image.reduce(factor).resize(image.size, way)


def tensor(image: Image.Image) -> Tensor:
    return to_tensor(image)[None].float() / 255


def found(image: Image.Image, quality: int | None) -> int:
    """The factor that is found in what is stored; 1 of none."""
    enlarged = enlargement(tensor(stored(image, quality)), quality)
    return 1 if enlarged is None else enlarged.factor


def detection() -> None:
    photographs = [photograph(name) for name in NAMES]
    print(f"| done | {' | '.join(FILES)} |\n|---|{'---|' * len(FILES)}")
    done = {f"{f} times, {name}": (f, lambda x, f=f, w=w: again(x, f, w)) for f in FACTORS for name, w in WAYS.items()}
    done["nothing"] = 1, lambda x: x
    done["nothing, blur 2"] = 1, lambda x: x.filter(ImageFilter.GaussianBlur(2))
    for name, (factor, change) in done.items():
        right = [sum(found(change(x), q) == factor for x in photographs) for q in FILES.values()]
        print(f"| {name} | {' | '.join(f'{n} of {len(NAMES)}' for n in right)} |", flush=True)


def restoration(count: int) -> None:
    prior = load_prior("photos")
    print("\n| photograph | file | as it is | restored |\n|---|---|---|---|")
    for name in NAMES[:count]:
        edge = (SIDE - CROP) // 2
        x = photograph(name).crop((edge, edge, edge + CROP, edge + CROP))
        for words, quality in list(FILES.items())[:2]:
            y = again(x, 2, WAYS["bicubic"])
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / ("y.png" if quality is None else "y.jpg")
                y.save(path, **({} if quality is None else {"quality": quality}))
                mean = restore_file(path, prior, make_task("enlarged")).restoration.mean
            print(f"| {name} | {words} | {psnr(stored(y, quality), x):.2f} | {psnr(mean, x):.2f} |", flush=True)


def rounding() -> None:
    print("| file | error of the small picture beside r_0^(1/2): least, median, most |\n|---|---|")
    for words, quality in FILES.items():
        ratios = []
        for name in NAMES:
            for factor in FACTORS[:2]:
                x = photograph(name)
                y = stored(again(x, factor, WAYS["bicubic"]), quality)
                result = enlargement(tensor(y), quality)
                if result is not None and result.factor == factor:
                    error = small_picture(tensor(y), factor, result.filter) - tensor(x.reduce(factor))
                    ratios.append(float(error.square().mean().sqrt()) / result.noise)
        least, middle, most = (float(torch.tensor(ratios).quantile(q)) for q in (0.0, 0.5, 1.0))
        print(f"| {words} | {least:.2f}, {middle:.2f}, {most:.2f} |", flush=True)


def psnr(y: Image.Image | Tensor, x: Image.Image) -> float:
    y = tensor(y) if isinstance(y, Image.Image) else y.clamp(0, 1)
    return float(-10 * (y - tensor(x)).square().mean().log10())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restore", type=int, default=0, metavar="N", help="restore so many of the photographs")
    parser.add_argument("--rounding", action="store_true", help="measure that alone")
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    if given.rounding:
        rounding()
        return
    detection()
    if given.restore:
        restoration(given.restore)


if __name__ == "__main__":
    main()
