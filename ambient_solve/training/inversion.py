r"""Learn a concept: one embedding for each band of noise levels, from a few pictures of a subject, damaged ones too.

    python trainers/invert.py my_cat/ --pipeline my_pipeline/ --token "<cat>" --init cat --out runs/cat
    python trainers/invert.py corrupted:damaged --pipeline my_pipeline/ --token "<cat>" --out runs/cat

Textual inversion (Gal et al., 2022, arXiv 2208.01618) by bands (Daras and Dimakis, 2022, arXiv 2211.17115): at a time
drawn evenly the prompt holds the embedding of its band, and only that is learned,

    L = E |eps - eps_theta(z_t, t, c(v_j(t)))|^2 = E |D - z0|^2 / sigma^2

Latents with noise, or with holes, are used above their own level alone (see `concept_pictures`), towards the unbiased
target tau of `objectives.denoise`, whose variance v weighs: `|D - tau|^2 / (sigma^2 + v)`; a clean one has the loss
above, bit for bit. Bands under every picture's level have nothing to learn from: they take the embedding of the lowest
band that has.

The network, the text encoders and their vocabulary are frozen, and no optimizer sees them. The same command resumes an
interrupted run, bit for bit: every batch and its noise are functions of (seed, step).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ambient_solve.distributed import choose_device
from ambient_solve.errors import AmbientSolveError
from ambient_solve.figures.sheet import Row, contact_sheet, picture_tile
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.noise import Streams, per_sample
from ambient_solve.objectives.base import Batch
from ambient_solve.objectives.denoise import buffer, unbiased_target
from ambient_solve.priors.concepts import TimeDependentEmbedding, band_of, token_name
from ambient_solve.priors.latent import LatentPrior
from ambient_solve.priors.latent_pipeline import own_side, with_concepts, words_of
from ambient_solve.priors.load import load_prior
from ambient_solve.priors.text import Prompt
from ambient_solve.priors.text_encoders import encoders_of
from ambient_solve.saving import replace_text
from ambient_solve.training.checkpoints import Checkpoints, refuse_another_run, remember
from ambient_solve.training.concept_pictures import admissible, concept_samples, latents_of
from ambient_solve.training.locks import only_run_in
from ambient_solve.training.stopping import Stopping

TEMPLATES = (
    "a photo of {}",
    "a picture of {}",
    "a close photo of {}",
    "a good photo of {}",
    "a small photo of {}",
    "{}",
)
"""Prompts that training draws from; the first one is that of the sheets."""
S_MAX = 4.0
"""A noisy latent is used where `sigma^2 / (sigma^2 - sigma_noise^2)` is below it."""
SHEET = "sheet.png"
"""Samples by mode and resolution, in the folder of a run."""
STATISTICS = "stats.jsonl"
"""Mean loss of each band, in the folder of a run."""
OUT = "concept"
"""Folder of the finished concept, in that of a run."""


@final
@dataclass(frozen=True, kw_only=True)
class Inversion:
    """The knobs of `invert`, checked."""

    bands: int = knob(10, 1, 1000, "bands of noise levels, each with an embedding")
    steps: int = knob(3000, 1, 1_000_000, "training steps")
    batch: int = knob(4, 1, 1024, "latents of a training step")
    accumulate: int = knob(1, 1, 1024, "parts into which a batch is cut, one after another, to save memory")
    lr: float = knob(2e-3, 0.0, 10.0, "learning rate of Adam; there is no weight decay")
    seed: int = knob(0, 0, help="decides every batch and its noise")
    precision: str = knob("auto", help="arithmetic of the network", choices=("auto", "float32", "bfloat16"))
    checkpoint_every: int = knob(200, 1, 1_000_000, "steps from one checkpoint to the next")
    samples_every: int = knob(0, 0, 1_000_000, "steps from one sheet of samples to the next; 0 draws none")
    sample_steps: int = knob(20, 1, 1000, "noise levels of a sample on the sheet")
    guidance: float = knob(1.0, 0.0, 100.0, "classifier-free guidance of the samples on the sheet")

    def __post_init__(self) -> None:
        check_knobs(self)


def new_concept(prior: LatentPrior, name: str, init: str, bands: int) -> TimeDependentEmbedding:
    """A concept whose embeddings are all those of a word, as training begins.

    Args:
        prior: A prior that takes words.
        name: Of the concept.
        init: A word of the vocabulary; where it is several tokens, their mean.
        bands: K.

    Returns:
        The concept, on the CPU, its embeddings learnable.

    Raises:
        AmbientSolveError: the prior takes no words, or the word is none.
    """
    tables = {}
    for key, (encoder, tokenizer) in encoders_of(words_of(prior).plain).items():
        ids = tokenizer(init, add_special_tokens=False).input_ids if init.strip() else []
        if not ids:
            raise AmbientSolveError(f"init={init[:40]!r} was given; a word, such as that of the kind, was expected.")
        rows = encoder.get_input_embeddings().weight.detach()[torch.tensor(ids)]
        tables[key] = rows.float().cpu().mean(0, keepdim=True).repeat(bands, 1)
    return TimeDependentEmbedding(name, tables)


def squared_errors(denoise: Callable[[Tensor, Tensor], Tensor], batch: Batch, streams: Any) -> Tensor:
    """The loss of each entry, `|D - tau|^2 / (sigma^2 + v)`, 0 where it does not count; its mean is the loss.

    Args:
        denoise: `(z, sigma) -> D`, conditioned on the concept.
        batch: Latents, each at a level above its own noise.
        streams: One for each.

    Returns:
        (B, C, h, w).
    """
    z, tau = unbiased_target(batch, streams)
    v = batch.sigma_noise**2 * batch.sigma**2 / (batch.sigma**2 - batch.sigma_noise**2)
    errors = (denoise(z, batch.sigma).float() - tau).square() / per_sample(batch.sigma**2 + v, z)
    if batch.mask is None:
        return errors
    return errors * batch.mask / batch.mask.mean((1, 2, 3), keepdim=True)


def draw_batch(
    latents: Batch, rule: Any, settings: Inversion, step: int
) -> tuple[Batch, Streams, list[str], list[int]]:
    """The batch of a step: first its times, then a latent for each that may be used there.

    Args:
        latents: As `latents_of` returns them.
        rule: The `Parameterization` of the network.
        settings: Of the run.
        step: From 0.

    Returns:
        The batch, its streams, its templates, and the band of each row.

    Raises:
        AmbientSolveError: no latent may be used anywhere.
    """
    rng, rows = np.random.default_rng((settings.seed, 5, step)), settings.batch
    low = lowest_share(latents, rule)
    shares = low + (1 - low) * (rng.permutation(rows) + rng.random(rows)) / rows
    sigma = rule.level(shares)
    fits = admissible(latents, sigma, buffer(S_MAX))
    chosen = [int(rng.choice(np.flatnonzero(row))) for row in fits]
    templates = [TEMPLATES[i] for i in rng.integers(len(TEMPLATES), size=rows)]
    keys = [
        int(np.random.SeedSequence((settings.seed, 6, step, i)).generate_state(1, np.uint64)[0]) for i in range(rows)
    ]
    batch = Batch(
        z=latents.z[chosen],
        sigma=torch.from_numpy(sigma).float(),
        sigma_noise=latents.sigma_noise[chosen],
        sigma_min=latents.sigma_min[chosen],
        sigma_max=latents.sigma_max[chosen],
        mask=None if latents.mask is None else latents.mask[chosen],
    )
    return batch, Streams(keys, 1), templates, [band_of(share, settings.bands) for share in rule.share(sigma)]


def lowest_share(latents: Batch, rule: Any) -> float:
    """From which share of the network's time on a latent may be used; 0 where one is clean.

    Args:
        latents: As `latents_of` returns them.
        rule: The `Parameterization` of the network.

    Returns:
        The share, 0 to under 1.

    Raises:
        AmbientSolveError: none may be used anywhere.
    """
    grid = np.linspace(0, 1, 1000, endpoint=False)
    usable = admissible(latents, rule.level(grid), buffer(S_MAX)).any(1)
    if not usable.any():
        raise AmbientSolveError(
            "No picture may be used at any noise level that the network knows: they are too noisy, or their "
            "sigma_min is too high."
        )
    return float(grid[usable.argmax()])


def invert(
    data: str,
    pipeline: str | Path,
    token: str,
    out: str | Path,
    settings: Inversion,
    *,
    init: str = "photo",
    size: int = 0,
    sigma: float = 0.0,
    limit: int = 0,
    device: str = "auto",
) -> Path:
    """Learn a concept, or go on with it.

    Args:
        data: Pictures of the subject: what `read_images` takes, or corrupted:FOLDER.
        pipeline: A latent pipeline with text encoders, as `load_prior` takes it.
        token: What prompts call it, such as "<cat>".
        out: Folder of the run; the finished concept is in OUT/concept.
        settings: The knobs.
        init: A word of the vocabulary that the embeddings begin as.
        size: Side in pixels of what is learned from; 0 is that of the network.
        sigma: Noise that all pictures hold, where pixel values go from 0 to 1.
        limit: At most this many pictures; 0 is all.
        device: "auto", "cpu" or "cuda".

    Returns:
        The folder of the concept.

    Raises:
        AmbientSolveError: pictures, pipeline, token or settings do not fit.
    """
    out, place = Path(out), torch.device(choose_device(device))
    name = token_name(token)
    if settings.batch % settings.accumulate:
        raise AmbientSolveError(
            f"batch={settings.batch} and accumulate={settings.accumulate} were given: the first must be a multiple."
        )
    with only_run_in(out):
        record = {"data": data, "pipeline": str(pipeline), "token": token, "init": init, "size": size, "sigma": sigma}
        moves = ("checkpoint_every", "samples_every", "sample_steps", "guidance")
        record |= {"limit": limit, **{k: v for k, v in asdict(settings).items() if k not in moves}}
        refuse_another_run(out, record, grows="steps")
        prior = load_prior(pipeline, device=str(place))
        concept = new_concept(prior, name, init, settings.bands)
        side = size or own_side(prior)
        if side is None:
            raise AmbientSolveError("The network does not say the size of its pictures: give size=512, or --size 512.")
        latents = latents_of(prior, concept_samples(data, side, sigma, limit), settings.seed)
        for encoder, _ in encoders_of(words_of(prior).plain).values():
            encoder.to(place).requires_grad_(False).eval()
        concept.to(place).requires_grad_(True)
        remember(out, record, True)
        return _learn(with_concepts(prior, [concept]), concept, latents, out, settings, record, side)


def _learn(
    prior: LatentPrior,
    concept: TimeDependentEmbedding,
    latents: Batch,
    out: Path,
    settings: Inversion,
    record: dict[str, Any],
    size: int,
) -> Path:
    rule, optimizer = prior.inner.inner.rule, optimizer_of(concept, settings)
    checkpoints = Checkpoints(out)
    first, seconds = checkpoints.load(concept, {}, optimizer)
    _trim(out / STATISTICS, first)
    started = time.perf_counter()
    with Stopping(1) as stopping, tqdm(total=settings.steps, initial=first, unit="step", desc=record["token"]) as bar:
        for step in range(first, settings.steps):
            losses, bands = take_step(prior, concept, latents, optimizer, settings, step)
            bar.update(1)
            done, last = step + 1, step + 1 == settings.steps
            _write_row(out / STATISTICS, done, losses, bands)
            if done % settings.checkpoint_every == 0 or last or stopping.asked:
                checkpoints.save(done, seconds + time.perf_counter() - started, concept, {}, optimizer)
            if settings.samples_every and (done % settings.samples_every == 0 or last):
                write_sheet(prior, concept, out / SHEET, settings, size)
            if stopping.asked and not last:
                sys.exit(f"\nStopped after step {done} of {settings.steps}; the same command goes on there.")
    finest = fill_below(concept, latents, rule)
    pipeline = type(words_of(prior).plain).__name__
    concept.save(out / OUT, {"finest": finest, "learned": {**record, "pictures": len(latents.z), "class": pipeline}})
    return out / OUT


def optimizer_of(concept: TimeDependentEmbedding, settings: Inversion) -> torch.optim.Optimizer:
    """Adam for the rows of a concept, without weight decay, which would move rows whose gradient is 0.

    Args:
        concept: Learnable.
        settings: Of the run.

    Returns:
        The optimizer.
    """
    return torch.optim.Adam(concept.parameters(), lr=settings.lr, weight_decay=0.0)


def take_step(
    prior: LatentPrior,
    concept: TimeDependentEmbedding,
    latents: Batch,
    optimizer: torch.optim.Optimizer,
    settings: Inversion,
    step: int,
) -> tuple[list[float], list[int]]:
    """Take a training step; it depends on (seed, step) and on what was learned before alone.

    Args:
        prior: Which knows the concept, `with_concepts`.
        concept: It, learnable.
        latents: As `latents_of` returns them.
        optimizer: Of the concept.
        settings: Of the run.
        step: From 0.

    Returns:
        The loss of each row, and its band.
    """
    place, part = prior.device, settings.batch // settings.accumulate
    half = settings.precision == "bfloat16" or (settings.precision == "auto" and place.type == "cuda")
    batch, streams, templates, bands = draw_batch(latents, prior.inner.inner.rule, settings, step)
    batch, losses = batch.to(str(place)), []
    noise = _Drawn(streams.normal(batch.z))
    for at in range(0, settings.batch, part):
        rows = slice(at, at + part)
        prompts = [Prompt(template.format(f"<{concept.name}>")) for template in templates[rows]]
        denoise = lambda z, sigma, c=prompts: prior.denoise(z, sigma, c)  # noqa: E731
        with torch.autocast(place.type, torch.bfloat16, enabled=half):
            errors = squared_errors(denoise, _rows(batch, rows), noise.part(rows))
        each = errors.flatten(1).mean(1)
        (each.sum() / settings.batch).backward()
        losses += each.detach().tolist()
    optimizer.step()
    optimizer.zero_grad()
    return losses, bands


@torch.no_grad()
def fill_below(concept: TimeDependentEmbedding, latents: Batch, rule: Any) -> int:
    """Give the bands under the level of every picture the embedding of the lowest band that has learned.

    Args:
        concept: Changed in place.
        latents: That it has learned from.
        rule: The `Parameterization` of the network.

    Returns:
        The lowest band that has learned.
    """
    finest = band_of(lowest_share(latents, rule), concept.bands)
    for table in concept.tables.values():
        table[:finest] = table[finest].clone()
    return finest


@final
class _Drawn:
    """Noise that was drawn for a whole batch, handed out as streams give it: `accumulate` changes no number."""

    def __init__(self, noise: Tensor) -> None:
        self._noise = noise

    def part(self, rows: slice) -> Any:
        """That of some rows."""
        return _Drawn(self._noise[rows])

    def normal(self, like: Tensor) -> Tensor:
        """See `Streams.normal`."""
        return self._noise.to(like)


def _rows(batch: Batch, rows: slice) -> Batch:
    return Batch(**{name: t[rows] for name, t in vars(batch).items() if t is not None})


def _trim(path: Path, step: int) -> None:
    """Drop the rows later than the checkpoint, and a torn last one."""
    if path.is_file():
        rows = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        replace_text(path, "".join(row for row in rows if json.loads(row)["step"] <= step))


def _write_row(path: Path, step: int, losses: list[float], bands: list[int]) -> None:
    if not np.isfinite(losses).all():
        raise AmbientSolveError(f"The loss is not finite at step {step}: lower lr and start again in another --out.")
    own = {j: [a for a, b in zip(losses, bands, strict=True) if b == j] for j in sorted(set(bands))}
    row = {"step": step, "loss": float(np.mean(losses)), "bands": {str(j): float(np.mean(v)) for j, v in own.items()}}
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


@torch.no_grad()
def write_sheet(
    prior: LatentPrior, concept: TimeDependentEmbedding, path: Path, settings: Inversion, size: int
) -> None:
    """A contact sheet of samples: a row for each mode, a column for each of four resolutions, one seed.

    Args:
        prior: Which knows the concept.
        concept: It.
        path: The file.
        settings: Of the run.
        size: Side of the pictures, in pixels.
    """
    from ambient_solve.sampling import generate

    columns = sorted({round(i * (concept.bands - 1) / 3) for i in range(4)})
    modes = {"fixed": "<{}|{}|>", "fully": "<{}[{}]>", "semi": "<{}({})>"}
    rows = []
    for mode, spelling in modes.items():
        tiles = []
        for i in columns:
            text = TEMPLATES[0].format(spelling.format(concept.name, i))
            z = generate(
                prior, 1, size=size // prior.autoencoder.factor, steps=settings.sample_steps, order=1,
                seed=settings.seed, progress=False, cond=Prompt(text, guidance=settings.guidance),
            )  # fmt: skip
            tiles.append(picture_tile(prior.decode(z)[0], text))
        rows.append(Row(mode, "", tiles))
    contact_sheet(f"<{concept.name}>", [f"i = {i}" for i in columns], rows, side=192).save(path)
