"""Pictures as uint8 tensors (C, H, W): from a file, a folder, an .npz pack, webdataset shards or Hugging Face data."""

from __future__ import annotations

import io
import re
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, UnreadableFile, reason
from ambient_solve.reading.limits import check_bytes, inside, read_json
from ambient_solve.reading.listing import left_out_words, list_pictures
from ambient_solve.reading.masks import missing_pixels
from ambient_solve.reading.numpy_files import open_numpy
from ambient_solve.reading.pictures import (
    DEPTHS,
    MAX_PIXELS,
    SUFFIXES,
    TAKEN_FOR,
    check_pixels,
    decode_image,
    deep_values,
    has_alpha,
    image_size,
    is_deep,
    open_image,
)
from ambient_solve.reading.profiles import to_srgb
from ambient_solve.reading.raw import LIMIT, load

T = TypeVar("T")
Opened: TypeAlias = Callable[[], Image.Image]
"""Decodes a picture, or raises the error that names it."""
MAX_BYTES = 8 * MAX_PIXELS
"""Largest file of one picture in a shard, in bytes."""


def to_tensor(image: Image.Image, channels: int = 3, name: object = "The picture") -> Tensor:
    """A picture as a tensor of sRGB. An alpha channel is laid over white; grey is repeated.

    Args:
        image: Any mode of Pillow.
        channels: 1, grey, or 3, colour.
        name: What an error calls it.

    Returns:
        uint8 (channels, H, W).

    Raises:
        AmbientSolveError: its numbers have an unknown scale.
    """
    if channels not in (1, 3):
        raise AmbientSolveError(
            f"Pictures have 1 or 3 channels, {channels} were asked for: store other data with write_corrupted, and "
            "train on corrupted:FOLDER."
        )
    if is_deep(image):
        values, _ = deep_values(image, name)
        image = Image.fromarray((255 * values).round().clip(0, 255).astype(np.uint8))
    else:
        image, _ = to_srgb(image)
        image = over_white(image)
    image = image.convert("RGB" if channels == 3 else "L")
    array = np.array(image)
    return torch.from_numpy(array[None] if channels == 1 else array.transpose(2, 0, 1).copy())


def over_white(image: Image.Image) -> Image.Image:
    """A picture of 8 bits with its transparent parts laid over white; the same where it has none."""
    if not has_alpha(image):
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)


def open_mask(path: str | Path) -> Tensor:
    """The observed pixels, uint8 (1, H, W) of 1 = observed, from a picture in which white is MISSING.

    See `reading.masks.missing_pixels`: gray edges are missing too, transparent pixels are not painted.
    """
    missing, _ = missing_pixels(open_image(path), path)
    return torch.from_numpy(~missing)[None].to(torch.uint8)


def read_images(
    source: str | Path,
    channels: int = 3,
    shrink: int = 1,
    follow_outside: bool = False,
    tell: Callable[[str], object] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """The pictures of `source`, in a fixed order.

    `source` is one of

        FOLDER              every picture in it, searched recursively
        FILE.npz            a pack: `data`, encoded files one after another, and `offsets`
        webdataset:PATH     .tar shards, read in place: one, a folder of them, or part-{000..003}.tar
        dataset:PATH        what `datasets.Dataset.save_to_disk` wrote, with one column of pictures
        imagefolder:PATH    a folder as Hugging Face's reader sees it

    A picture that cannot be read is left out, and said, if there is one that can.

    Args:
        source: Where the pictures are, as above.
        channels: 1, grey, or 3, colour, to which every picture is converted.
        shrink: What both sides are divided by; 2 makes the pixels of a JPEG clean again.
        follow_outside: Whether the last two kinds may name pictures outside of PATH; only if you trust the names.
        tell: Takes a sentence on what is left out; by default it is a warning.

    Yields:
        Name and picture, uint8 (C, H, W).

    Raises:
        AmbientSolveError: there is nothing of the kind, no picture can be read, or all pixels are equal.
    """
    tell = tell or _warn
    bad: list[UnreadableFile] = []
    count, color, contrast = 0, None, False
    depths: Counter[int] = Counter()
    for name, opened in _open_all(str(source), follow_outside, tell):
        try:
            image = opened()
            picture = to_tensor(image, channels, name)
            picture = _shrink(name, picture, shrink) if shrink > 1 else picture
        except UnreadableFile as error:
            bad.append(error)
            continue
        depths.update([image.info[TAKEN_FOR]] if TAKEN_FOR in image.info else [])
        color = picture[:, :1, :1] if color is None else color
        count, contrast = count + 1, contrast or not bool((picture == color).all())
        yield name, picture
    if bad and not count:
        raise bad[0]
    if bad:
        tell(left_out_words([str(error) for error in bad]))
    if depths and min(depths) < max(DEPTHS):
        taken = ", ".join(f"{n} for {white.bit_length()} bits" for white, n in sorted(depths.items()))
        tell(
            f"Deep pictures of {source} were taken by their brightest values, {taken}: divide them by white if not so."
        )
    if count > 1 and not contrast:
        raise _blank(count, source)


def require_contrast(pictures: Sequence[tuple[str, Tensor]], source: object) -> None:
    """Refuse pictures in which all pixels are equal, as `read_images` does of a whole source.

    Args:
        pictures: (name, (C, H, W)), such as the first ones of a source.
        source: What the error calls them.

    Raises:
        AmbientSolveError: there are several and they have no contrast.
    """
    if len(pictures) > 1 and all(bool((x == pictures[0][1][:, :1, :1]).all()) for _, x in pictures):
        raise _blank(len(pictures), source)


def _blank(count: int, source: object) -> AmbientSolveError:
    return AmbientSolveError(
        f"All pixels of the {count} pictures of {source} are equal: there is nothing to learn from. If a viewer shows "
        "more, store them with 8 bits a color."
    )


def _warn(words: str) -> None:
    warnings.warn(words, stacklevel=3)


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


def _open_all(source: str, follow_outside: bool, tell: Callable[[str], object]) -> Iterator[tuple[str, Opened]]:
    """What opens each picture of a source, by its name."""
    kind, _, path = source.partition(":")
    if kind == "webdataset":
        yield from _open_shards(path)
    elif kind in ("imagefolder", "dataset"):
        yield from _open_hugging_face(kind, path, follow_outside)
    elif source.endswith(".npz"):
        yield from _open_pack(Path(source))
    elif Path(source).is_dir():
        listing = list_pictures(source)
        if not listing.pictures:
            raise AmbientSolveError(f"The folder {source} holds no picture ({', '.join(SUFFIXES)}). {listing.words}")
        if listing.left_out:
            tell(listing.words)
        for path in listing.pictures:
            yield str(path.relative_to(source)), partial(open_image, path)
    else:
        raise AmbientSolveError(
            f"{source} is no folder, no .npz pack and no webdataset:PATH, dataset:PATH or imagefolder:PATH; there is "
            "nothing to read."
        )


def _open_pack(path: Path) -> Iterator[tuple[str, Opened]]:
    if not path.is_file():
        raise AmbientSolveError(f"There is no pack {path}.")
    data, offsets = _read_pack(path)
    for i in range(len(offsets) - 1):
        encoded = io.BytesIO(data[offsets[i] : offsets[i + 1]].tobytes())
        yield f"{path.stem}/{i}", partial(decode_image, encoded, f"Picture {i} of {path}")


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


def _open_shards(source: str) -> Iterator[tuple[str, Opened]]:
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
            yield f"{path.stem}/{name}", partial(decode_image, io.BytesIO(content), where)
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


def _open_hugging_face(kind: str, folder: str, follow_outside: bool) -> Iterator[tuple[str, Opened]]:
    if not Path(folder).is_dir():
        raise AmbientSolveError(f"There is no folder {folder}.")
    try:
        import datasets
    except ImportError:
        raise AmbientSolveError(f"{kind}:PATH needs datasets: pip install 'ambient-solve[train]'.") from None

    try:
        if kind == "dataset":
            _check_parts(Path(folder), follow_outside)
            rows = datasets.load_from_disk(folder)
        else:
            rows = datasets.load_dataset("imagefolder", data_dir=folder, split="train")
    except AmbientSolveError:
        raise
    except (datasets.exceptions.DatasetsError, OSError, ValueError, KeyError) as error:
        raise AmbientSolveError(f"{kind}:{folder} cannot be read: {reason(error, longest=200)}.") from None
    column = _picture_column(rows, f"{kind}:{folder}")
    # Decoded here, not there: sizes are checked first, and a bad picture is named.
    for i, row in enumerate(rows.select_columns(column).cast_column(column, datasets.Image(decode=False))):
        where, stored = f"Picture {i} of {folder}", row[column] or {}
        content, path = stored.get("bytes"), stored.get("path")
        if content is None and path is None:
            yield f"{kind}/{i}", partial(_no_picture, where)
        elif content is None:
            yield f"{kind}/{i}", partial(open_image, inside(Path(folder), path, follow_outside))
        else:
            yield f"{kind}/{i}", partial(decode_image, io.BytesIO(content), where)


def _no_picture(where: str) -> Image.Image:
    raise UnreadableFile(where, "is empty; expected a picture.")


def _check_parts(folder: Path, follow_outside: bool) -> None:
    """Refuse a saved data set that keeps its rows in files outside of its folder, which `datasets` would open."""
    if not (folder / "state.json").is_file():
        return
    state = read_json(folder / "state.json")
    parts = state.get("_data_files") if isinstance(state, dict) else None
    if not isinstance(parts, list):
        raise UnreadableFile(folder / "state.json", "does not list the files of the data set.")
    for part in parts:
        inside(folder, part.get("filename") if isinstance(part, dict) else None, follow_outside)


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


__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "check_pixels",
    "image_size",
    "open_image",
    "open_mask",
    "over_white",
    "read_images",
    "require_contrast",
    "shuffled",
    "to_tensor",
]
