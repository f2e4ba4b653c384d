"""What config.json holds about the network of a prior, and what its entries may be: the file is not trusted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.process import SoftSettings, checked_settings
from ambient_solve.reading.limits import read_json

CONFIG = "config.json"
"""File of the settings in the folder of a prior, a `NetworkConfig`."""
WHOLE = {
    "channels": (1, 64),
    "unshuffle": (1, 16),
    "groups": (0, 512),
    "embedding": (1, 8192),
    "mask_channels": (0, 64),
}
"""Whole numbers of a network, and what they may be."""
REAL = {
    "sigma_min": (1e-6, 1e6),
    "sigma_max": (1e-6, 1e6),
    "sigma_data": (1e-6, 1e6),
    "scale": (-1e6, 1e6),
    "offset": (-1e6, 1e6),
    "missing": (0.0, 1e6),
}
"""Real numbers of a network, and what they may be."""
MAX_SIDE = 65_536
"""Pixels along a side of a picture."""
MAX_LEVELS = 8
"""Levels of the network."""
MAX_WIDTH = 8192
"""Channels of its widest level."""
MAX_BLOCKS = 16
"""Residual blocks of one level."""


@dataclass(frozen=True)
class NetworkConfig:
    """Everything config.json holds about the network."""

    channels: int = 3
    """Channels of a picture, 1 to 64."""
    size: tuple[int, int] | None = None
    """(H, W) in pixels, or None for any size."""
    widths: tuple[int, ...] = (48, 96, 128, 192)
    """Channels of the levels, from fine to coarse."""
    blocks: int | tuple[int, ...] = 1
    """Residual blocks of each level on the way down and, one more, on the way up: one number, or one for each level."""
    unshuffle: int = 2
    """Side in pixels of the squares that become channels before the first level; 1 is none."""
    groups: int = 8
    """Groups of the group normalisations; 0 leaves them out."""
    embedding: int = 192
    """Numbers that the noise level is embedded in."""
    sigma_min: float = 0.01
    """Lowest noise level, in units of z."""
    sigma_max: float = 80.0
    """Highest noise level, in units of z."""
    sigma_data: float = 0.5
    """Standard deviation of one entry of the data, in units of z."""
    scale: float = 0.5
    """`x = scale * z + offset`: the defaults take z in [-1, 1] to x in [0, 1]."""
    offset: float = 0.5
    """What is added to it: see `scale`."""
    mask_channels: int = 0
    """Channels that are shown beside the picture (`cond` of `denoise`): a mask of what was observed."""
    keep_probability: float | None = None
    """Share in (0, 1] of the entries that training showed a mask-conditioned network, by which masks are drawn."""
    missing: float = 0.0
    """Deviation of what a mask of k-space leaves out: it counts as noise in the preconditioning."""

    @property
    def depths(self) -> tuple[int, ...]:
        """Residual blocks of each level, from fine to coarse."""
        return (self.blocks,) * len(self.widths) if isinstance(self.blocks, int) else self.blocks


def read_process(folder: Path) -> SoftSettings | None:
    """The forward process in the folder of a prior; None is additive noise.

    Raises:
        AmbientSolveError: an entry does not fit.
    """
    path = folder / CONFIG
    settings = read_json(path)
    given = settings.get("process") if isinstance(settings, dict) else None
    return None if given is None else checked_settings(given, str(path))


def check_network(config: NetworkConfig, where: str) -> None:
    """Check the type and the range of every entry of `config`, before anything is built of it.

    Args:
        config: Read from a file, not trusted.
        where: What the error calls the file.

    Raises:
        AmbientSolveError: an entry has another type, or lies outside its range.
    """

    def fits(value: Any, low: float, high: float, *kinds: type) -> bool:
        return type(value) in kinds and low <= value <= high

    def refuse(name: str, expected: str) -> NoReturn:
        value = repr(getattr(config, name))
        raise AmbientSolveError(f"{where} says {name} = {value[:60]}; {expected} was expected.")

    for name, (low, high) in WHOLE.items():
        if not fits(getattr(config, name), low, high, int):
            refuse(name, f"a whole number from {low} to {high}")
    for name, (least, most) in REAL.items():
        if not fits(getattr(config, name), least, most, int, float):
            refuse(name, f"a number from {least:g} to {most:g}")
    if not config.sigma_min < config.sigma_max:
        refuse("sigma_max", f"more than sigma_min = {config.sigma_min}")
    if not config.scale:
        refuse("scale", "another number than 0")
    if config.keep_probability is not None and not (
        fits(config.keep_probability, 0, 1, int, float) and config.keep_probability
    ):
        refuse("keep_probability", "a share above 0 and at most 1")
    size, widths = config.size, config.widths
    if size is not None and not (_is_row(size, 2, 2) and all(fits(n, 1, MAX_SIDE, int) for n in size)):
        refuse("size", f"null, or height and width from 1 to {MAX_SIDE}")
    if not (_is_row(widths, 1, MAX_LEVELS) and all(fits(n, 1, MAX_WIDTH, int) for n in widths)):
        refuse("widths", f"1 to {MAX_LEVELS} whole numbers up to {MAX_WIDTH}")
    blocks = config.blocks if isinstance(config.blocks, tuple) else (config.blocks,) * len(widths)
    if len(blocks) != len(widths) or not all(fits(n, 0, MAX_BLOCKS, int) for n in blocks):
        refuse("blocks", f"a whole number up to {MAX_BLOCKS}, or one for each of the widths")
    if config.groups and any(n % config.groups for n in widths):
        refuse("groups", f"a divisor of the widths {widths}")


def _is_row(value: Any, least: int, most: int) -> bool:
    return isinstance(value, tuple) and least <= len(value) <= most


def read_config_file(folder: Path) -> NetworkConfig:
    """The configuration in the folder of a prior, once every entry is known to fit.

    Raises:
        AmbientSolveError: there is none, or an entry does not fit.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise AmbientSolveError(f"{folder} is not a prior: it has no {CONFIG}. NetworkPrior.save writes such a folder.")
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise AmbientSolveError(f"{path} is not a readable prior configuration: names with values were expected.")
    settings.pop("kind", None)
    settings.pop("process", None)  # read by `read_process`
    known = [f.name for f in dataclasses.fields(NetworkConfig)]
    for name in settings:
        if name not in known:
            raise AmbientSolveError(f"{path} has an unknown entry {name[:50]!r}. {suggestion(name[:50], known)}")
    for name in ("widths", "size", "blocks"):
        if isinstance(settings.get(name), list):
            settings[name] = tuple(settings[name])
    config = NetworkConfig(**settings)
    check_network(config, str(path))
    return config
