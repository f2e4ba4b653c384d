"""Pictures as uint8 tensors (C, H, W): from one file, a folder, an .npz pack, or a Hugging Face image folder."""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ambient_solve.errors import AmbientSolveError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
MAX_PIXELS = 64_000_000


def open_image(path: str | Path) -> Image.Image:
    """Open and fully decode one picture, upright (EXIF). Its size is checked before a pixel is decoded."""
    path = Path(path)
    if not path.is_file():
        raise AmbientSolveError(f"There is no file {path}.")
    if path.stat().st_size == 0:
        raise AmbientSolveError(f"{path} is empty (0 bytes); expected a picture.")
    return _decode(path, str(path))


def _decode(file: Path | io.BytesIO, name: str) -> Image.Image:
    """The picture in `file`, upright; what is wrong with it is said of `name`."""
    most = f"{MAX_PIXELS // 1_000_000} million pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
            if image.width * image.height > MAX_PIXELS:
                raise AmbientSolveError(
                    f"{name} is {image.width}x{image.height}; at most {most} are read. Make it smaller first."
                )
            image.load()
            return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError:
        raise AmbientSolveError(f"{name} claims more than {most}. Make it smaller.") from None
    except UnidentifiedImageError:
        raise AmbientSolveError(f"{name} is not a picture that can be read ({', '.join(SUFFIXES)}).") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, AmbientSolveError):
            raise
        raise AmbientSolveError(f"{name} is a damaged picture file: {error}.") from None


def to_tensor(image: Image.Image, channels: int = 3) -> Tensor:
    """A picture as uint8 (channels, H, W), `channels` 1 or 3. An alpha channel is laid over white; grey is repeated."""
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    image = image.convert("RGB" if channels == 3 else "L")
    array = np.array(image)
    return torch.from_numpy(array[None] if channels == 1 else array.transpose(2, 0, 1).copy())


def read_images(source: str | Path, channels: int = 3, shrink: int = 1) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, uint8 (C, H, W)) for every picture of `source`, in a fixed order.

    `source` is a folder (searched recursively), an .npz pack (`data`: encoded files one after another, `offsets`), or
    "imagefolder:PATH" for Hugging Face's reader. `shrink` divides both sides, which makes a JPEG's pixels clean again.
    """
    for name, image in _open_all(str(source)):
        picture = to_tensor(image, channels)
        yield name, _shrink(name, picture, shrink) if shrink > 1 else picture


def _shrink(name: str, picture: Tensor, by: int) -> Tensor:
    height, width = (n // by for n in picture.shape[-2:])
    if not height or not width:
        raise AmbientSolveError(f"{name} is {picture.shape[-1]}x{picture.shape[-2]}, too small to be divided by {by}.")
    array = picture[0] if len(picture) == 1 else picture.permute(1, 2, 0)
    small = Image.fromarray(array.contiguous().numpy()).resize((width, height), Image.Resampling.LANCZOS)
    return to_tensor(small, len(picture))


def _open_all(source: str) -> Iterator[tuple[str, Image.Image]]:
    if source.startswith("imagefolder:"):
        yield from _open_hugging_face(source.removeprefix("imagefolder:"))
    elif source.endswith(".npz"):
        yield from _open_pack(Path(source))
    elif Path(source).is_dir():
        paths = sorted(p for p in Path(source).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise AmbientSolveError(f"The folder {source} holds no picture ({', '.join(SUFFIXES)}).")
        for path in paths:
            yield str(path.relative_to(source)), open_image(path)
    else:
        raise AmbientSolveError(
            f"{source} is no folder, no .npz pack and no imagefolder:PATH; there is nothing to read."
        )


def _open_pack(path: Path) -> Iterator[tuple[str, Image.Image]]:
    if not path.is_file():
        raise AmbientSolveError(f"There is no pack {path}.")
    data, offsets = _read_pack(path)
    for i in range(len(offsets) - 1):
        encoded = io.BytesIO(data[offsets[i] : offsets[i + 1]].tobytes())
        yield f"{path.stem}/{i}", _decode(encoded, f"Picture {i} of {path}")


def _read_pack(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """`data` and `offsets` of a pack, once they are known to fit together."""
    if not zipfile.is_zipfile(path):
        raise AmbientSolveError(f"{path} is no .npz file, or not all of it: copy it again, or give a folder.")
    try:
        with np.load(path, allow_pickle=False) as pack:
            if not {"data", "offsets"} <= set(pack.files):
                raise AmbientSolveError(f"{path} is no picture pack: it holds {pack.files}, expected data and offsets.")
            data, offsets = np.asarray(pack["data"]), np.asarray(pack["offsets"])
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, AmbientSolveError):
            raise
        raise AmbientSolveError(f"{path} is a damaged pack: {error}.") from None
    wanted = data.dtype == np.uint8 and offsets.dtype.kind in "iu" and data.ndim == offsets.ndim == 1 and len(offsets)
    if not wanted or offsets[0] < 0 or (offsets[1:] < offsets[:-1]).any() or offsets[-1] > len(data):
        raise AmbientSolveError(
            f"{path} is no picture pack: data must be bytes (uint8), offsets rising positions in them, one more than "
            "there are pictures."
        )
    return data, offsets


def _open_hugging_face(folder: str) -> Iterator[tuple[str, Image.Image]]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise AmbientSolveError("imagefolder:PATH needs datasets: pip install 'ambient-solve[train]'.") from None

    if not Path(folder).is_dir():
        raise AmbientSolveError(f"There is no folder {folder}.")
    rows = load_dataset("imagefolder", data_dir=folder, split="train")
    for i, row in enumerate(rows):
        yield f"imagefolder/{i}", row["image"]
