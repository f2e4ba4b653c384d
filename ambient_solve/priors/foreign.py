"""The files of a diffusers pipeline, checked before diffusers builds anything of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
INDEX = "model_index.json"
"""File by which a folder is known to be a pipeline of diffusers."""
SCHEDULER = "scheduler_config.json"
"""File of a scheduler's settings."""
UNET_CONFIG = "config.json"
"""File of a UNet's settings."""
UNET_WEIGHTS = "diffusion_pytorch_model"
"""How the files of a UNet's weights begin."""
PARTS = ("unet", "scheduler")
"""What a pipeline of pixels is made of."""
CODES = ("vae", "vqvae", "movq", "vqgan")
"""Parts by which a pipeline works on a code of the picture."""
WORDS = ("text_encoder", "tokenizer", "image_encoder", "bert")
"""How parts begin by which words or pictures say what a pipeline draws."""


@dataclass(frozen=True)
class Layout:
    """Where the files of a pipeline of pixels lie.

    Attributes:
        unet: Folder of the UNet's files.
        scheduler: The scheduler's settings.
        weights: The UNet's weights, in one piece or several.
        variant: What stands in their names, such as "fp16"; None for the plain ones.
    """

    unet: Path
    scheduler: Path
    weights: tuple[Path, ...]
    variant: str | None

    @classmethod
    def of(cls, folder: Path) -> Layout:
        """The layout of a folder, once its index is known to be that of a pipeline of pixels.

        Raises:
            AmbientSolveError: it is another kind of pipeline, or a part is missing.
        """
        _check_index(folder)
        unet = folder / "unet" if (folder / "unet").is_dir() else folder
        inside = folder / "scheduler" / SCHEDULER
        scheduler = inside if inside.is_file() else folder / SCHEDULER
        if not (unet / UNET_CONFIG).is_file():
            raise AmbientSolveError(
                f"{folder} is no diffusers pipeline: it needs unet/ and scheduler/{SCHEDULER}, as "
                "DDPMPipeline(unet, scheduler).save_pretrained(folder) writes them."
            )
        _check_kind(read_json(unet / UNET_CONFIG), unet / UNET_CONFIG)
        if not scheduler.is_file():
            raise AmbientSolveError(
                f"{folder} holds a UNet without its scheduler, which says at which noise levels it was trained: put "
                f"{SCHEDULER} beside {UNET_CONFIG}, or save both by DDPMPipeline(unet, scheduler).save_pretrained(...)."
            )
        variant = _variant(unet)
        plain = f"{UNET_WEIGHTS}{'' if variant is None else f'.{variant}'}"
        return cls(unet, scheduler, tuple(sorted(_pieces(unet, plain))), variant)


def is_pipeline(folder: Path) -> bool:
    """Whether a folder holds a pipeline, or a part of one, as diffusers saves it."""
    if (folder / INDEX).is_file() or (folder / "unet").is_dir():
        return True
    return (folder / UNET_CONFIG).is_file() and "_class_name" in (_mapping(read_json(folder / UNET_CONFIG)) or ())


def _mapping(given: Any) -> dict[str, Any] | None:
    return given if isinstance(given, dict) else None


def _check_index(folder: Path) -> None:
    """Raise unless the index, where there is one, is that of a UNet and a scheduler alone."""
    path = folder / INDEX
    if not path.is_file():
        return
    index = _mapping(read_json(path))
    if index is None or len(index) > MAX_ENTRIES:
        raise AmbientSolveError(f"{path} is not the index of a pipeline: names with values were expected.")
    parts = [name for name, value in index.items() if isinstance(value, list) and any(v is not None for v in value)]
    kind = f"{path} describes a {str(index.get('_class_name', 'pipeline'))[:60]}"
    advice = "give an unconditional pipeline of pixels, such as a DDPMPipeline."
    codes = [name for name in parts if name in CODES]
    if codes:
        raise AmbientSolveError(
            f"{kind}, whose network denoises a code of the picture ({codes[0]}) and not its pixels; {advice}"
        )
    words = [name for name in parts if name.startswith(WORDS)]
    if words:
        raise AmbientSolveError(f"{kind}, which is conditioned on words or pictures ({words[0][:40]}); {advice}")
    other = [name[:40] for name in parts if name not in PARTS]
    if other or (parts and "unet" not in parts):
        raise AmbientSolveError(f"{kind}, made of {', '.join(name[:40] for name in parts[:8])}; {advice}")


def _check_kind(config: Any, path: Path) -> None:
    """Raise unless config.json is that of a UNet without words."""
    name = (_mapping(config) or {}).get("_class_name", "UNet2DModel")
    if name == "UNet2DConditionModel":
        raise AmbientSolveError(
            f"{path} describes a UNet2DConditionModel, which is conditioned on words or pictures; an unconditional "
            "UNet2DModel was expected."
        )
    if name != "UNet2DModel":
        raise AmbientSolveError(f"{path} describes a {str(name)[:60]!r}; a UNet2DModel was expected.")


def _pieces(unet: Path, plain: str) -> list[Path]:
    """The file of the weights called `plain`, or its pieces."""
    whole = unet / f"{plain}.safetensors"
    return [whole] if whole.is_file() else [*unet.glob(f"{plain}-*-of-*.safetensors")]


def _variant(unet: Path) -> str | None:
    """None where there are plain weights, else the first variant in the order of the alphabet."""
    if _pieces(unet, UNET_WEIGHTS):
        return None
    names = sorted(file.name for file in unet.glob(f"{UNET_WEIGHTS}.*.safetensors"))
    if not names:
        pickles = sorted(file.name for file in unet.glob("*.bin"))
        what = f" only {pickles[0]}, a pickle, which is never read" if pickles else " no weights"
        raise AmbientSolveError(
            f"{unet} holds{what}; {UNET_WEIGHTS}.safetensors, as save_pretrained writes it, was expected."
        )
    return names[0].split(".")[1].split("-")[0]


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


def check_unet(layout: Layout) -> None:
    """Raise unless config.json of a UNet has entries in their ranges, and its weights as many numbers as it asks for.

    Args:
        layout: Where the files are.

    Raises:
        AmbientSolveError: the files do not fit each other.
    """
    import torch
    from diffusers import UNet2DModel
    from safetensors import SafetensorError, safe_open

    path, weights = layout.unet / UNET_CONFIG, layout.weights[0]
    config = read_json(path)
    _check_plain(config, path)
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
        held = 0
        for weights in layout.weights:
            with safe_open(weights, framework="pt") as file:
                held += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
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
