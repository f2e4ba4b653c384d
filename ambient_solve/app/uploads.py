"""Untrusted files: one picture, or a zip of pictures, checked before a pixel is decoded or a byte is written.

Errors name the file, never the folder it was put in: that folder belongs to the server.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from ambient_solve.errors import AmbientSolveError, UnreadableFile, reason
from ambient_solve.reading.archives import open_zip
from ambient_solve.restore.pictures import Picture, read_measurement

MAX_PIXELS = 40_000_000
"""Largest picture, in pixels, where the caller does not say otherwise."""
MAX_BYTES = 1_000_000_000
"""Largest size of all files of an archive, unpacked, in bytes."""
MAX_FILES = 1000
"""Largest number of files of an archive."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
"""Suffixes of archives."""
JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
"""What file managers leave in archives; names that begin with a dot are passed over too."""
POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")
"""How a file begins that Pillow would hand to an interpreter, whatever its name."""
BLOCK = 1 << 20
"""Size of the pieces in which archives are read and written, in bytes."""


def open_upload(path: str | Path, *, max_pixels: int = MAX_PIXELS, channels: int = 3) -> Picture:
    """An uploaded picture as a measurement, upright. Format and size are decided from its header.

    Args:
        path: The file.
        max_pixels: Most pixels.
        channels: 1 or 3.

    Returns:
        The picture, with notes on what was converted; of an animation it is the first frame.

    Raises:
        AmbientSolveError: no picture, a damaged one, one that is too large, or of another format.
    """
    path = Path(path)
    _examine(path, max_pixels)
    try:
        return read_measurement(path, channels, max_pixels)
    except UnreadableFile as error:
        raise error.called_by_name() from None


def _examine(path: Path, max_pixels: int) -> None:
    """Refuse from the header what will not be read."""
    import warnings

    from PIL import Image, UnidentifiedImageError

    from ambient_solve.reading.limits import FORMATS
    from ambient_solve.reading.pictures import OTHERS, check_pixels

    name = path.name
    if not path.is_file():
        raise AmbientSolveError(f"There is no file {name}.")
    if path.stat().st_size == 0:
        raise AmbientSolveError(f"{name} is empty (0 bytes); a picture was expected.")
    with path.open("rb") as file:
        head = file.read(1024)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                check_pixels(image.size, name, max_pixels)
    except Image.DecompressionBombError:
        raise AmbientSolveError(
            f"{name} claims more than {max_pixels / 1e6:g} million pixels; make it smaller first."
        ) from None
    except UnidentifiedImageError:
        if b"<svg" in head.lower():
            raise AmbientSolveError(f"{name} is a drawing (SVG), not a photograph: export it as PNG first.") from None
        if path.suffix.lower() in OTHERS:
            raise AmbientSolveError(
                f"{name} is not a picture that can be read: {OTHERS[path.suffix.lower()]}."
            ) from None
        raise AmbientSolveError(
            f"{name} is not a picture that can be read; PNG, JPEG, WebP, TIFF, BMP, GIF, PPM or JPEG 2000 was expected."
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, AmbientSolveError):
            raise
        raise AmbientSolveError(f"{name} is a damaged picture file: save or copy it again.") from None


def unzip_pictures(
    path: str | Path, folder: str | Path, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES
) -> list[Path]:
    """Unpack the pictures of a zip file; other files are left inside.

    Everything is checked by its declared name and size before anything is written, and by its actual size while it is:
    a file that is larger than declared is refused, and what was written of the archive is removed.

    Args:
        path: The zip file.
        folder: Where to.
        max_bytes: Most bytes of all pictures, unpacked.
        max_files: Most pictures.

    Returns:
        The paths of the pictures, sorted.

    Raises:
        AmbientSolveError: no zip file, unsafe names, links, archives inside, too much or too many, or no picture.
    """
    path, folder = Path(path), Path(folder)
    name, written = path.name, []
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise AmbientSolveError(f"{name} is no zip file, or not all of it: pack the pictures into a .zip again.")
    try:
        with open_zip(path, name) as archive:
            members = _pictures(archive.infolist(), name, max_bytes, max_files)
            for member in members:
                target = folder / PurePosixPath(member.filename)
                if folder.resolve() not in target.resolve().parents:
                    raise AmbientSolveError(f"{name} holds {member.filename!r}, which leads out of its folder.")
                target.parent.mkdir(parents=True, exist_ok=True)
                written.append(target)
                _write(archive, member, target, name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        for target in written:
            target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise AmbientSolveError(f"{name} could not be unpacked: {reason(error)}.") from None
        raise AmbientSolveError(f"{name} is a damaged zip file: pack it again.") from None
    except AmbientSolveError:
        for target in written:
            target.unlink(missing_ok=True)
        raise
    return sorted(written)


def left_inside(path: str | Path) -> list[tuple[str, str]]:
    """Pictures of a zip file that are of a kind that is not read.

    Args:
        path: A zip file that `unzip_pictures` has accepted.

    Returns:
        Their names without folders, each with the reason.
    """
    from ambient_solve.reading.pictures import OTHERS

    with open_zip(Path(path), Path(path).name) as archive:
        inside = [PurePosixPath(member.filename) for member in archive.infolist() if not member.is_dir()]
    return [(p.name, OTHERS[p.suffix.lower()]) for p in inside if p.suffix.lower() in OTHERS and p.name[:1] != "."]


def _pictures(members: list[zipfile.ZipInfo], name: str, max_bytes: int, max_files: int) -> list[zipfile.ZipInfo]:
    """The pictures among `members`; raises where the archive is not to be trusted."""
    from ambient_solve.data.images import SUFFIXES

    chosen: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        inside, parts = member.filename, PurePosixPath(member.filename).parts
        if "\\" in member.orig_filename or ":" in inside or inside.startswith("/") or ".." in parts or not parts:
            raise AmbientSolveError(f"{name} holds {inside!r}; names inside the zip must not lead out of its folder.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise AmbientSolveError(f"{name} holds {inside!r}, a link; pack the picture itself.")
        if member.is_dir() or any(part in JUNK or part.startswith(".") for part in parts):
            continue
        suffix = PurePosixPath(inside).suffix.lower()
        if suffix in ARCHIVES:
            raise AmbientSolveError(f"{name} holds {inside!r}, an archive inside the archive; unpack it first.")
        if suffix not in SUFFIXES:
            continue
        if member.flag_bits & 1:
            raise AmbientSolveError(f"{name} is locked with a password; pack it without.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise AmbientSolveError(f"{name} is packed in an unusual way; pack it as an ordinary zip (deflate).")
        if inside.casefold() in chosen:
            raise AmbientSolveError(f"{name} holds two files called {inside!r}; give them different names.")
        chosen[inside.casefold()] = member
    found = list(chosen.values())
    if not found:
        raise AmbientSolveError(f"{name} holds no picture ({', '.join(SUFFIXES)}).")
    if len(found) > max_files:
        raise AmbientSolveError(f"{name} holds {len(found)} pictures; at most {max_files} are taken at a time.")
    total = sum(member.file_size for member in found)
    if total > max_bytes:
        raise AmbientSolveError(
            f"{name} unpacks to {total / 1e6:.0f} MB; at most {max_bytes / 1e6:.0f} MB are taken at a time."
        )
    return found


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, name: str) -> None:
    """Unpack `member` block by block: what it declared is all that it may be."""
    size = 0
    with archive.open(member) as source, target.open("wb") as file:
        while block := source.read(BLOCK):
            if not size and block.startswith(POSTSCRIPT):
                raise AmbientSolveError(f"{name} holds {member.filename!r}, a PostScript program; pack pictures only.")
            size += len(block)
            if size > member.file_size:
                break
            file.write(block)
    if size != member.file_size:
        raise AmbientSolveError(f"{name} holds {member.filename!r}, which is not as large as it says: pack it again.")


def zip_folder(folder: str | Path, path: str | Path) -> Path:
    """Pack the files of a folder, but no unfinished results; the same content gives the same bytes.

    Args:
        folder: What to pack.
        path: The zip file to write.

    Returns:
        `path`.

    Raises:
        AmbientSolveError: there is nothing to pack.
    """
    from ambient_solve.restore.sharing import PART

    folder, path = Path(folder), Path(path)
    part = path.with_name(path.name + ".part")
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()]
    files = [p for p in files if p.resolve() not in (path.resolve(), part.resolve()) and PART not in p.parts]
    if not files:
        raise AmbientSolveError(f"The folder {folder.name} holds no file to pack.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            # Its own time is not stored: the default of ZipInfo, 1980, makes equal folders equal files.
            member = zipfile.ZipInfo(file.relative_to(folder).as_posix())
            member.external_attr = 0o644 << 16
            packed = file.suffix.lower() in (".png", ".jpg", ".jpeg")
            member.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
            member.file_size = file.stat().st_size
            with file.open("rb") as source, archive.open(member, "w") as target:
                while block := source.read(BLOCK):
                    target.write(block)
    os.replace(part, path)
    return path
