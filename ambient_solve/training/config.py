"""All settings of a training run: a YAML file, the command line on top of it, and what cannot work said at once."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro
import yaml

from ambient_solve.data.corruption import Corruption
from ambient_solve.data.damages import DAMAGES, Damage, make_damage
from ambient_solve.errors import AmbientSolveError, one_line, suggestion
from ambient_solve.noise import Streams
from ambient_solve.objectives import OBJECTIVES, Objective
from ambient_solve.objectives.denoise import Denoise
from ambient_solve.priors.field import Field, FieldStreams
from ambient_solve.priors.network_config import NetworkConfig, check_network
from ambient_solve.process import Additive, SoftSettings

PRECISIONS = ("auto", "bf16", "fp32", "no")
"""What `precision` may be; no is the former name of fp32."""
POSITIVE = "images batch accumulate crop lr level_std decay clip stats_every checkpoint_every".split()
"""Settings that must exceed 0."""


@dataclass(frozen=True)
class Source:
    """A set of pictures: a folder, an .npz pack, imagefolder:PATH, dataset:PATH, webdataset:PATH, or corrupted:PATH,
    damaged beforehand."""

    path: str
    """Where the pictures are, below `data_root` unless absolute."""
    share: float = 1.0
    """Share of the training samples drawn from this source."""
    shrink: int = 1
    """Divide both sides by this number first; 2 makes the pixels of a JPEG clean again."""
    shuffle: bool = False
    """Bring the pictures into a random order first, for data that are stored sorted."""
    held_out: int = 0
    """The last pictures, kept clean and out of training, to measure the denoiser on. Of corrupted:PATH the last ones
    that are clean; where none is, the last noisy ones, on which the loss of training itself is measured. Where every
    source says 0, `held_out` of the run decides."""
    limit: int = 0
    """At most this many pictures, the first ones; 0 is all."""
    by_area: bool = False
    """Draw pictures in proportion to their area: every pixel counts the same, not every picture."""
    annotations: str = ""
    """A table of sigma_min and sigma_max, as trainers/annotate.py writes it."""
    freeze: float = 0.0
    """Against memorisation (arXiv 2502.21278): clean pictures below this level only, a noisy copy of each above it."""
    hide: bool = False
    """Freeze noise of level sigma_min into the annotated pictures: the ambient target of Omni (arXiv 2506.10038)."""
    follow_outside: bool = False
    """Read files that a table of this source names outside of its folder; only if you trust it."""
    terms: str = "not stated"
    """Licence of the data, for the model card."""


@dataclass(frozen=True)
class Ema:
    """Averaged weights, the ones that are kept."""

    half_life: int = 8_000
    """Half-life of the average, in samples; shorter while little has been seen."""
    power: float = 0.0
    """Above 0: the power-function average of EDM2 (arXiv 2312.02696, equation 121) with this gamma instead."""

    def keep(self, step: int, batch: int) -> float:
        """The weight of the old average in a training step.

        Args:
            step: Training steps done, from 0.
            batch: Samples of a step.

        Returns:
            0 to 1.
        """
        if self.power:
            return (1 - 1 / (step + 1)) ** (self.power + 1)
        return 0.5 ** (batch / min(self.half_life, 0.1 * (step + 1) * batch))


@dataclass(frozen=True)
class ProcessConfig:
    """What makes noisy states of pictures: noise alone, or a corruption that grows with it (docs/processes.md)."""

    kind: Literal["additive", "soft"] = "additive"
    """additive: z0 + sigma n. soft: C_t z0 + sigma n, which wants objective: {kind: soft}."""
    family: Literal["blur", "fade", "downsample"] = "blur"
    """The corruption C_t of a soft process."""
    strongest: float = 16.0
    """Its strength at network.sigma_max: pixels (the deviation of a blur, the radius that is dark), or halvings. It
    must leave nothing of a picture but its mean color."""
    curve: float = 2.0
    """Exponent of its growth in ln sigma: above 1 the noise grows first, below 1 the corruption."""


@dataclass(frozen=True)
class DiffusionNoise:
    """The noise that the denoiser learns to remove."""

    kind: Literal["white", "field"] = "white"
    """white, or field: a Gaussian process, as video wants it (Warped Diffusion, arXiv 2410.16152)."""
    length: float = 0.64
    """Pixels over which a field is correlated; 0.64 resolves the pixel grid."""
    features: int = 500
    """Random waves of each draw of a field; its covariance is the same for any number."""


@dataclass(frozen=True)
class Tuning:
    """Which weights learn, and what that may cost."""

    kind: Literal["full", "lora"] = "full"
    """full: all weights. lora: matrices of low rank beside those of `init`, which stay (arXiv 2106.09685)."""
    rank: int = 8
    """Rank of these matrices."""
    layers: Literal["auto", "attention", "all"] = "auto"
    """Where they go: into the projections of attention, or into all layers; auto: attention where there is any."""
    checkpointing: bool = False
    """Compute what the blocks of the network hold once more in the backward pass: less memory, a third more time."""
    eight_bit: bool = False
    """Moments of the optimizer in 8 bits (bitsandbytes): a quarter of the memory."""
    words: bool = False
    """The text encoder learns too, where the objective is captioned."""
    cond: str = ""
    """What a network of words or classes is conditioned on throughout: a prompt, or the number of a class."""


@dataclass(frozen=True)
class Config:
    """All of a training run."""

    out: str
    """Folder of the run: checkpoints, stats.jsonl, and the finished prior."""
    name: str = "prior"
    """What the model card calls it."""
    data_root: str = "."
    """Relative source paths start here."""
    sources: tuple[Source, ...] = ()
    stages: tuple[int, ...] = ()
    """Stage of each source, from 0; the next begins when the held-out loss rises at a level. () draws from all."""
    corruption: Corruption = field(default_factory=Corruption)
    """What is done to the pictures of sources that are clean, once, before training."""
    drop_noisy: bool = False
    """Train on the clean pictures alone: the control arm."""
    note: str = ""
    """A sentence for the model card: what these weights must not be measured on, say."""
    init: str = ""
    """Start from this prior: a folder, an embedded name, a hub id, or the folder of a diffusers pipeline."""
    tuning: Tuning = field(default_factory=Tuning)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    objective: Objective = field(default_factory=Denoise)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    noise: DiffusionNoise = field(default_factory=DiffusionNoise)
    """What is added to the pictures."""
    s_max: float = 4.0
    """Noisy samples are used where sigma^2 / (sigma^2 - sigma_noise^2) stays below this number."""
    level_mean: float = -0.9
    """Mean of ln sigma: levels are log-normal, truncated to the network's range."""
    level_std: float = 1.6
    """Standard deviation of ln sigma."""
    crop: int = 64
    """Side in pixels of the squares that training sees."""
    mirror: bool = True
    """Mirror half of the samples; not right for latents: those of a mirrored picture are no mirrored latents."""
    drop_small: bool = False
    """Leave out pictures that are smaller than the crop, in place of refusing them."""
    flat: float = 0.0
    """A crop whose deviation is below this number, in units of [-1, 1] and without the noise, is drawn once more."""
    images: int = 200_000
    """Length of the run, in samples seen."""
    batch: int = 32
    """Samples in one optimiser step, over all processes and accumulated micro-batches."""
    accumulate: int = 1
    """Micro-batches of one optimiser step."""
    lr: float = 5e-4
    """Learning rate after the warm-up."""
    schedule: Literal["cosine", "constant", "inverse_sqrt"] = "cosine"
    """What the learning rate does after the warm-up: fall to 0, stay, or fall as 1 / sqrt(samples) (EDM2)."""
    warmup: int = 3_200
    """Samples over which the learning rate rises."""
    decay: int = 100_000
    """Samples after which inverse_sqrt begins to fall."""
    clip: float = 1.0
    """Norm to which the gradient of a step is clipped."""
    ema: Ema = field(default_factory=Ema)
    precision: str = "auto"
    """auto, bf16 or fp32. auto: bf16 where the hardware multiplies it natively, else fp32, which is faster there."""
    compile: Literal["auto", "always", "never"] = "auto"
    """torch.compile the network: a minute or more to start, then faster. auto: in long runs (training/compiling.py)."""
    seed: int = 0
    """Decides the initial weights, the order of the samples and all noise."""
    tracker: str = "auto"
    """What accelerate logs to: auto (tensorboard if installed), none, tensorboard, wandb, mlflow, ..."""
    duplicates: bool = True
    """Report near-duplicate pictures before training, those between held-out and training pictures above all."""
    held_out: float = 0.05
    """Share of each source to hold out and measure on, chosen by a hash of the pictures; 0 trains on all. Where a
    source says how many itself, or validate_every is 0, no other is held out."""
    stats_every: int = 50
    """Optimiser steps between rows of stats.jsonl."""
    checkpoint_every: int = 500
    """Optimiser steps between checkpoints."""
    validate_every: int = 1_000
    """Optimiser steps between validations: the held-out loss by level, and a sheet of samples; 0 is never."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


UNSET = ("noise_length",)
"""Fields that are no setting where they are not set: runs that began before there were such go on."""
NOT_SETTINGS = ("dry_run", "data_root", "out")
"""Fields that a run does not depend on."""


def settings_of(value: Any) -> Any:
    """A configuration as YAML holds it, kinds included."""
    if dataclasses.is_dataclass(value):
        names = {kind: name for name, kind in (OBJECTIVES | DAMAGES).items()}
        kind = {"kind": names[type(value)]} if type(value) in names else {}
        named = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return kind | {k: settings_of(v) for k, v in named.items() if not (k in UNSET and v is None)}
    return [settings_of(v) for v in value] if isinstance(value, (list, tuple)) else value


def make(cls: type, values: Any, where: str) -> Any:
    """A dataclass of the configuration from a mapping of YAML.

    Args:
        cls: The dataclass; of a damage or an objective, the kind that the mapping names.
        values: The mapping.
        where: What an error calls it.

    Returns:
        An instance.

    Raises:
        AmbientSolveError: a name or a value does not fit.
    """
    if not isinstance(values, dict):
        raise AmbientSolveError(f"{where} must hold names and values, not {values!r}.")
    if cls is Damage:
        return make_damage(values)
    if cls is Objective:
        values = dict(values)
        kind = values.pop("kind", "denoise")
        if kind not in OBJECTIVES:
            raise AmbientSolveError(f"{where}: kind = {kind!r} is unknown. {suggestion(str(kind), OBJECTIVES)}")
        cls = OBJECTIVES[kind]
    kinds, fitted = get_type_hints(cls), {}
    known = {f.name for f in dataclasses.fields(cls)}
    for name, value in values.items():
        if name not in known:
            raise AmbientSolveError(f"{where}: {name!r} is unknown. {suggestion(str(name), known)}")
        fitted[name] = _fit(kinds[name], value, name, where)
    try:
        return cls(**fitted)
    except TypeError as error:
        raise AmbientSolveError(f"{where}: {error}.") from None


def _fit(kind: Any, value: Any, name: str, where: str) -> Any:
    """One value of YAML as the field of type `kind` wants it."""
    if kind is float and isinstance(value, str):  # 5e-4 without a dot is a word in YAML
        with contextlib.suppress(ValueError):
            value = float(value)
    if kind in (int, float, str, bool) and type(value) not in ((int, float) if kind is float else (kind,)):
        raise AmbientSolveError(f"{where}: {name} = {value!r} is no {kind.__name__}.")
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise AmbientSolveError(f"{where}: {name} = {value!r} is no choice. {suggestion(str(value), get_args(kind))}")
    inner = get_args(kind)[0] if get_origin(kind) is tuple else None
    if dataclasses.is_dataclass(inner):
        rows = value if isinstance(value, list) else [value]
        return tuple(make(inner, row, f"{name}[{i}]") for i, row in enumerate(rows))
    if dataclasses.is_dataclass(kind) or kind is Objective:
        return make(kind, value, name)
    return tuple(value) if isinstance(value, list) else value


def read_config(args: list[str], program: str | None = None) -> Config:
    """The configuration of a run: the YAML file after `--config`, and the command line on top of it.

    Args:
        args: What was typed.
        program: What --help calls the command; None takes the name of the script.

    Returns:
        The configuration.

    Raises:
        AmbientSolveError: the file cannot be read, or a setting does not fit.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", const="")
    known, args = parser.parse_known_args(args)
    try:
        settings = {} if known.config is None else yaml.safe_load(Path(known.config).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise AmbientSolveError(f"--config needs a readable YAML file: {one_line(error)}.") from None
    default = make(Config, {"out": "", **settings} if isinstance(settings, dict) else settings, str(known.config))
    default = dataclasses.replace(default, out=default.out or tyro.MISSING)
    # Kinds are the YAML file's to choose: tyro takes the type of the default, and so sets the knobs of what was chosen.
    return tyro.cli(Config, prog=program, args=args, default=default, description="")


def planned_process(config: Config) -> SoftSettings | None:
    """The soft process of a run, before it is fitted to pictures; None where the noise is additive."""
    if config.process.kind == "additive":
        return None
    chosen = {name: getattr(config.process, name) for name in ("family", "strongest", "curve")}
    return SoftSettings(**chosen, lowest=config.network.sigma_min, highest=config.network.sigma_max)


def law_of(config: Config) -> Field | None:
    """The law of the noise of a run.

    Args:
        config: The configuration.

    Returns:
        The field, or None for white noise.

    Raises:
        AmbientSolveError: a number of it is out of range.
    """
    return Field(length=config.noise.length, features=config.noise.features) if config.noise.kind == "field" else None


def diffusion_streams(config: Config, streams: Streams) -> Streams:
    """Streams whose noise of pictures is that of a run.

    Args:
        config: The configuration.
        streams: One stream per row.

    Returns:
        `streams` themselves for white noise.
    """
    law = law_of(config)
    return streams if law is None else FieldStreams(streams, law)


def check(config: Config, processes: int) -> None:
    """Refuse at once a configuration that would fail later.

    Args:
        config: The configuration.
        processes: How many processes train.

    Raises:
        AmbientSolveError: a setting is out of range, or two do not fit each other.
    """
    micro, low, high = processes * config.accumulate, config.network.sigma_min, config.network.sigma_max
    for name in POSITIVE:
        if not 0 < getattr(config, name) < math.inf:
            raise AmbientSolveError(f"{name} = {getattr(config, name)} must be more than 0.")
    if config.precision not in PRECISIONS:
        raise AmbientSolveError(
            f"precision = {config.precision!r}: choose auto, bf16 or fp32 (fp16 underflows at low noise)."
        )
    if config.batch % micro:
        raise AmbientSolveError(
            f"batch = {config.batch} does not divide over {processes} processes x {config.accumulate} accumulated."
        )
    if config.checkpoint_every % config.stats_every:
        raise AmbientSolveError("checkpoint_every must be a multiple of stats_every: resuming would lose statistics.")
    if config.validate_every % config.stats_every:
        raise AmbientSolveError("validate_every must be a multiple of stats_every, or 0.")
    if not 0 <= config.held_out < 1:
        raise AmbientSolveError(
            f"held_out = {config.held_out:g} is no share: expected 0 (none) to less than 1, such as 0.05; a number of "
            "pictures is given in a source, as held_out: 20."
        )
    if config.seed < 0 or not 0 < low < high:
        raise AmbientSolveError("Expected seed >= 0 and 0 < network.sigma_min < network.sigma_max.")
    check_network(config.network, "The configuration of the network")
    planned = planned_process(config)
    config.objective.of_process(Additive() if planned is None else planned.process())
    if planned is not None and config.init:
        raise AmbientSolveError(
            "A soft process starts from no other prior, whose levels mean something else: leave init out."
        )
    if config.tuning.rank < 1 or (config.tuning.kind == "lora" and not config.init):
        raise AmbientSolveError(
            f"tuning: kind = {config.tuning.kind}, rank = {config.tuning.rank}: LoRA is added to the weights of a "
            "prior that --init names, with a rank of 1 or more."
        )
    law_of(config)
    if config.noise.kind == "field" and type(config.objective) is not Denoise:
        raise AmbientSolveError(
            "noise: {kind: field} needs objective: {kind: denoise}, which is the same for any noise."
        )
    if config.network.noise_length is not None:
        raise AmbientSolveError("network.noise_length follows from noise: leave it out.")
    if not (config.ema.half_life > 0 and config.ema.power >= 0):
        raise AmbientSolveError("Expected ema.half_life > 0 and ema.power >= 0.")
    same = (
        ("sigma_data", "network.sigma_data", config.network.sigma_data),
        ("sigma_min", "network.sigma_min", config.network.sigma_min),
        ("s_max", "s_max", config.s_max),
        ("channels", "network.channels", config.network.channels),
    )
    for name, other, value in same:
        own = getattr(config.objective, name, value)
        if own != value:
            raise AmbientSolveError(f"objective.{name} = {own} and {other} = {value} must be the same.")
    if config.network.size not in (None, (config.crop, config.crop)):
        raise AmbientSolveError(f"network.size = {config.network.size} must be the crop of {config.crop}, or left out.")
    if config.network.keep_probability is not None or config.network.mask_channels or config.network.missing:
        raise AmbientSolveError(
            "network.mask_channels, keep_probability and missing follow from the objective: leave them out."
        )
    if not config.sources:
        raise AmbientSolveError(
            "There is no data: list it in the file of --config, as in sources: [{path: my_photos}], or, of what "
            'ambient-solve corrupt wrote, sources: [{path: "corrupted:damaged"}].'
        )
    for source in config.sources:
        first = next(s for s in config.sources if s.path == source.path)
        same = "shuffle", "held_out", "limit"
        if any(getattr(source, name) != getattr(first, name) for name in same):
            raise AmbientSolveError(
                f"{source.path} is listed several times: give it the same {', '.join(same)} each time, or pictures "
                "held out at one scale are learned at another."
            )
        if not (source.share > 0 and source.shrink >= 1 and min(source.held_out, source.limit, source.freeze) >= 0):
            raise AmbientSolveError(
                f"{source.path}: expected share > 0, shrink >= 1, and held_out, limit and freeze of 0 or more."
            )
        if source.path.startswith("corrupted:") and source.shrink > 1:
            raise AmbientSolveError(f"{source.path} is damaged already: shrink it before it is damaged.")
