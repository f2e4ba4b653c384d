"""Pictures as uint8 tensors (C, H, W): from a file, a folder, an .npz pack, webdataset shards or Hugging Face data."""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, UnreadableFile, reason
from ambient_solve.reading.limits import FORMATS, check_bytes, inside
from ambient_solve.reading.numpy_files import open_numpy
from ambient_solve.reading.raw import LIMIT, load

T = TypeVar("T")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".avif")
"""Names of pictures end so."""
MAX_PIXELS = 64_000_000
"""Pixels of the largest picture that is decoded where nothing smaller is said; see `check_pixels`."""
MAX_BYTES = 8 * MAX_PIXELS
"""Largest file of one picture in a shard, in bytes."""


def check_pixels(size: tuple[int, int], name: object, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a picture that is too large, before it is decoded. Every way to read a picture has this one limit.

    Args:
        size: (width, height) in pixels.
        name: What the error calls it.
        max_pixels: Most pixels.

    Raises:
        AmbientSolveError: it has more.
    """
    width, height = size
    if width * height > max_pixels:
        raise UnreadableFile(
            name, f"is {width}x{height}; at most {max_pixels / 1e6:g} million pixels are read, make it smaller first."
        )


def image_size(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The size of a picture as its file states it, not turned upright; no pixel is decoded.

    Args:
        path: The file.
        max_pixels: Most pixels.

    Returns:
        (width, height).

    Raises:
        AmbientSolveError: it cannot be read, or is larger.
    """
    with _open(Path(path), path, max_pixels) as image:
        return image.size


def open_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open and decode one picture, upright (EXIF). Its size is checked before a pixel is decoded.

    Args:
        path: The file.
        max_pixels: Most pixels that it may have.

    Returns:
        The decoded picture, upright.

    Raises:
        AmbientSolveError: it is no picture, cannot be decoded, or is too large.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableFile(path, ".", "There is no file ")
    if path.stat().st_size == 0:
        raise UnreadableFile(path, "is empty (0 bytes); expected a picture.")
    return _decode(path, path, max_pixels)


def _decode(file: Path | io.BytesIO, name: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in `file`, upright; what is wrong with it is said of `name`."""
    with _open(file, name, max_pixels) as image:
        image.load()
        return ImageOps.exif_transpose(image)


@contextlib.contextmanager
def _open(file: Path | io.BytesIO, name: str | Path, max_pixels: int) -> Iterator[Image.Image]:
    """The picture in `file`, none of it decoded; what is wrong with it, then or later, is said of `name`."""
    most = f"{max_pixels / 1e6:g} million pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
            check_pixels(image.size, name, max_pixels)
            yield image
    except Image.DecompressionBombError:
        raise UnreadableFile(name, f"claims more than {most}. Make it smaller.") from None
    except UnidentifiedImageError:
        raise UnreadableFile(name, f"is not a picture that can be read ({', '.join(SUFFIXES)}).") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, AmbientSolveError):
            raise
        raise UnreadableFile(name, f"is a damaged picture file: {reason(error, name)}.") from None


def to_tensor(image: Image.Image, channels: int = 3) -> Tensor:
    """A picture as a tensor. An alpha channel is laid over white; grey is repeated.

    Args:
        image: Any mode of Pillow.
        channels: 1, grey, or 3, colour.

    Returns:
        uint8 (channels, H, W).
    """
    if channels not in (1, 3):
        raise AmbientSolveError(
            f"Pictures have 1 or 3 channels, {channels} were asked for: store other data with write_corrupted, and "
            "train on corrupted:FOLDER."
        )
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    image = image.convert("RGB" if channels == 3 else "L")
    array = np.array(image)
    return torch.from_numpy(array[None] if channels == 1 else array.transpose(2, 0, 1).copy())


def open_mask(path: str | Path) -> Tensor:
    """The observed pixels, uint8 (1, H, W) of 1 = observed, from a picture in which white is MISSING.

    Transparent pixels are not painted.
    """
    image = open_image(path)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba).convert("L")
    return (to_tensor(image, 1) < 128).to(torch.uint8)


def read_images(
    source: str | Path, channels: int = 3, shrink: int = 1, follow_outside: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """The pictures of `source`, in a fixed order.

    `source` is one of

        FOLDER              every picture in it, searched recursively
        FILE.npz            a pack: `data`, encoded files one after another, and `offsets`
        webdataset:PATH     .tar shards, read in place: one, a folder of them, or part-{000..003}.tar
        dataset:PATH        what `datasets.Dataset.save_to_disk` wrote, with one column of pictures
        imagefolder:PATH    a folder as Hugging Face's reader sees it

    Args:
        source: Where the pictures are, as above.
        channels: 1, grey, or 3, colour, to which every picture is converted.
        shrink: What both sides are divided by; 2 makes the pixels of a JPEG clean again.
        follow_outside: Whether the last two kinds may name pictures outside of PATH; only if you trust the names.

    Yields:
        Name and picture, uint8 (C, H, W).

    Raises:
        AmbientSolveError: there is nothing of the kind, or a picture cannot be read.
    """
    for name, image in _open_all(str(source), follow_outside):
        picture = to_tensor(image, channels)
        yield name, _shrink(name, picture, shrink) if shrink > 1 else picture


def shuffled(pictures: Sequence[T], seed: int) -> list[T]:
    """`pictures` in an order that depends on their number and the seed alone: a data set may be stored sorted.

    Args:
        pictures: In any order.
        seed: Decides the new one.

    Returns:
        The same pictures.
    """
    return [pictures[i] for i in np.random.default_rng((seed, 4)).permutation(len(pictures))]


def _shrink(name: str, picture: Tensor, by: int) -> Tensor:
    height, width = (n // by for n in picture.shape[-2:])
    if not height or not width:
        raise UnreadableFile(name, f"is {picture.shape[-1]}x{picture.shape[-2]}, too small to be divided by {by}.")
    array = picture[0] if len(picture) == 1 else picture.permute(1, 2, 0)
    small = Image.fromarray(array.contiguous().numpy()).resize((width, height), Image.Resampling.LANCZOS)
    return to_tensor(small, len(picture))


def _open_all(source: str, follow_outside: bool) -> Iterator[tuple[str, Image.Image]]:
    kind, _, path = source.partition(":")
    if kind == "webdataset":
        yield from _open_shards(path)
    elif kind in ("imagefolder", "dataset"):
        yield from _open_hugging_face(kind, path, follow_outside)
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
            f"{source} is no folder, no .npz pack and no webdataset:PATH, dataset:PATH or imagefolder:PATH; there is "
            "nothing to read."
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
        raise UnreadableFile(path, "is no .npz file, or not all of it: copy it again, or give a folder.")
    try:
        with open_numpy(path) as pack:
            held = list(pack)
            if {"data", "offsets"} <= set(held):
                check_bytes(pack["data"].bytes + pack["offsets"].bytes, path, LIMIT)
                data, offsets = (load(pack[name], name, LIMIT) for name in ("data", "offsets"))
    except AmbientSolveError as error:
        raise UnreadableFile(path, f"is a damaged pack: {error}") from None
    if not {"data", "offsets"} <= set(held):
        raise UnreadableFile(path, f"is no picture pack: it holds {held[:8]}, expected data and offsets.")
    wanted = data.dtype == np.uint8 and offsets.dtype.kind in "iu" and data.ndim == offsets.ndim == 1 and len(offsets)
    if not wanted or offsets[0] < 0 or (offsets[1:] < offsets[:-1]).any() or offsets[-1] > len(data):
        raise UnreadableFile(
            path,
            "is no picture pack: data must be bytes (uint8), offsets rising positions in them, one more than "
            "there are pictures.",
        )
    return data, offsets


def _open_shards(source: str) -> Iterator[tuple[str, Image.Image]]:
    found = False
    for path in _shards(source):
        for name, member, shard in _members(path):
            found = True
            where = f"{name} of {path}"
            if member.size > MAX_BYTES:
                raise UnreadableFile(where, f"claims {member.size} bytes; at most {MAX_BYTES} are read.")
            try:
                content = shard.extractfile(member).read()
            except (tarfile.TarError, OSError) as error:
                raise UnreadableFile(where, f"cannot be read: {reason(error)}; copy the shard again.") from None
            yield f"{path.stem}/{name}", _decode(io.BytesIO(content), where)
    if not found:
        raise AmbientSolveError(f"The shards {source} hold no picture ({', '.join(SUFFIXES)}).")


def _members(path: Path) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
    """The pictures of a shard in their order. Links and folders are passed over; nothing is written to disk."""
    try:
        with path.open("rb") as file:
            # tarfile takes a missing end for the end: a whole archive is made of blocks, and the last one is empty.
            size = file.seek(0, io.SEEK_END)
            file.seek(max(size - tarfile.BLOCKSIZE, 0))
            if size % tarfile.BLOCKSIZE or file.read().strip(b"\0"):
                raise UnreadableFile(path, "is no .tar shard, or not all of it: copy it again.")
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isreg() and member.name.lower().endswith(SUFFIXES):
                    yield member.name, member, shard
    except (tarfile.TarError, OSError) as error:
        raise UnreadableFile(path, f"is no .tar shard that can be read: {reason(error)}.") from None


def _shards(source: str) -> list[Path]:
    """The .tar files that `source` names, braces such as {000..003} spelt out."""
    braces = re.fullmatch(r"(.*?)\{(\d+)\.\.(\d+)\}(.*)", source)
    if braces:
        before, first, last, after = braces.groups()
        numbers = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
        paths = [path for number in numbers for path in _shards(before + number + after)]
    else:
        paths = sorted(Path(source).glob("*.tar")) if Path(source).is_dir() else [Path(source)]
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        what = f"no file {missing[0]}" if missing else f"no .tar shard in {source}"
        raise AmbientSolveError(
            f"There is {what}; webdataset:PATH is a .tar, a folder of them, or part-{{000..003}}.tar."
        )
    return paths


def _open_hugging_face(kind: str, folder: str, follow_outside: bool) -> Iterator[tuple[str, Image.Image]]:
    if not Path(folder).is_dir():
        raise AmbientSolveError(f"There is no folder {folder}.")
    try:
        import datasets
    except ImportError:
        raise AmbientSolveError(f"{kind}:PATH needs datasets: pip install 'ambient-solve[train]'.") from None

    try:
        if kind == "dataset":
            rows = datasets.load_from_disk(folder)
        else:
            rows = datasets.load_dataset("imagefolder", data_dir=folder, split="train")
    except (datasets.exceptions.DatasetsError, OSError, ValueError, KeyError) as error:
        raise AmbientSolveError(f"{kind}:{folder} cannot be read: {reason(error, longest=200)}.") from None
    column = _picture_column(rows, f"{kind}:{folder}")
    # Decoded here, not there: sizes are checked first, and a bad picture is named.
    for i, row in enumerate(rows.select_columns(column).cast_column(column, datasets.Image(decode=False))):
        where, stored = f"Picture {i} of {folder}", row[column] or {}
        content, path = stored.get("bytes"), stored.get("path")
        if content is None and path is None:
            raise UnreadableFile(where, "is empty; expected a picture.")
        if content is None:
            yield f"{kind}/{i}", open_image(inside(Path(folder), path, follow_outside))
        else:
            yield f"{kind}/{i}", _decode(io.BytesIO(content), where)


def _picture_column(rows: Any, source: str) -> str:
    import datasets

    if isinstance(rows, datasets.DatasetDict):
        raise AmbientSolveError(
            f"{source} holds the splits {', '.join(rows)}: name one, as {source}/{next(iter(rows))}."
        )
    columns = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    if len(columns) != 1:
        raise AmbientSolveError(
            f"{source} has {len(columns)} columns of pictures among {', '.join(rows.features)}; one was expected."
        )
    return columns[0]
