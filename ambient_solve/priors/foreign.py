"""The files of a diffusers pipeline, checked before diffusers builds anything of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ambient_solve.errors import AmbientSolveError, reason
from ambient_solve.reading.limits import read_json

MAX_NUMBER = 1e6
"""Of either sign; no entry of a scheduler or of a UNet comes near it."""
MAX_STEPS = 100_000
"""Most steps of a noise schedule."""
MAX_ENTRIES = 1000
"""Entries of a file, and of a row in it; but a schedule may be given step by step."""
MAX_WIDTH = 8192
"""Channels of the widest level of a UNet."""
MAX_LEVELS = 12
"""Levels of a UNet."""
MAX_LAYERS = 16
"""Layers of one level of a UNet."""
MAX_CHANNELS = 64
"""Channels of its picture."""
UNET_CONFIG = "config.json"
"""File of a UNet's settings."""
UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
"""File of a UNet's weights."""


def checked_scheduler(given: Any, where: object) -> dict[str, Any]:
    """The entries of a scheduler_config.json, once their types and ranges are known.

    Args:
        given: What the file holds.
        where: What an error calls it.

    Returns:
        The entries.

    Raises:
        AmbientSolveError: an entry that no scheduler has.
    """
    _check_plain(given, where)
    if not isinstance(given.get("_class_name", ""), str):
        raise AmbientSolveError(f"{where}: _class_name must be the name of a scheduler of diffusers.")
    steps = given.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 2 <= steps <= MAX_STEPS:
        raise AmbientSolveError(f"{where}: num_train_timesteps = {steps!r}; 2 to {MAX_STEPS} was expected.")
    if not isinstance(given.get("prediction_type", ""), str):
        raise AmbientSolveError(f"{where}: prediction_type must be a word.")
    return given


def check_unet(folder: Path) -> None:
    """Raise unless config.json of a UNet has entries in their ranges, and its weights as many numbers as it asks for.

    Args:
        folder: The UNet's, with both files.

    Raises:
        AmbientSolveError: the files do not fit each other, or are not there.
    """
    import torch
    from diffusers import UNet2DModel
    from safetensors import SafetensorError, safe_open

    path, weights = folder / UNET_CONFIG, folder / UNET_WEIGHTS
    for file in (path, weights):
        if not file.is_file():
            raise AmbientSolveError(f"There is no {file}: save_pretrained writes it, in one piece.")
    config = read_json(path)
    _check_plain(config, path)
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise AmbientSolveError(f"{path} describes a {config['_class_name']!r}; a UNet2DModel was expected.")
    for name, most in (("in_channels", MAX_CHANNELS), ("out_channels", MAX_CHANNELS), ("layers_per_block", MAX_LAYERS)):
        _check_whole(config.get(name, 1), most, f"{path}: {name}")
    widths = config.get("block_out_channels", [1])
    if not isinstance(widths, list) or not 0 < len(widths) <= MAX_LEVELS:
        raise AmbientSolveError(f"{path}: block_out_channels must be 1 to {MAX_LEVELS} whole numbers.")
    for width in widths:
        _check_whole(width, MAX_WIDTH, f"{path}: block_out_channels")
    try:
        with torch.device("meta"):
            asked = sum(t.numel() for t in UNet2DModel.from_config(config).state_dict().values())
        with safe_open(weights, framework="pt") as file:
            held = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
    except (OSError, SafetensorError) as error:
        raise AmbientSolveError(f"{weights} cannot be read ({reason(error)}); copy it again.") from None
    except Exception as error:  # noqa: BLE001 - diffusers raises whatever its layers raise
        raise AmbientSolveError(f"{path} describes no network ({reason(error)}).") from None
    if asked > held:
        raise AmbientSolveError(
            f"{path} describes a network of {asked:,} numbers, {weights.name} holds {held:,}: take both from one save."
        )


def _check_whole(value: Any, most: int, what: str) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise AmbientSolveError(f"{what} = {str(value)[:60]}; a whole number from 1 to {most} was expected.")


def _check_plain(given: Any, where: object) -> None:
    """Names with numbers of a sane size, words, and rows of them."""
    if not isinstance(given, dict) or len(given) > MAX_ENTRIES:
        raise AmbientSolveError(f"{where} holds no names with values, or too many.")
    for name, value in given.items():
        row = (
            list(value.values()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        )
        most = MAX_STEPS if name == "trained_betas" else MAX_ENTRIES
        if len(row) > most or not all(_is_plain(v) for v in row):
            raise AmbientSolveError(f"{where}: {str(name)[:50]!r} = {str(value)[:60]} is out of range.")


def _is_plain(value: Any) -> bool:
    """Whether `value` is true, false, nothing, a short word, or a number of a sane size."""
    if isinstance(value, str):
        return len(value) <= MAX_ENTRIES
    return value is None or (isinstance(value, (int, float)) and abs(value) <= MAX_NUMBER)
