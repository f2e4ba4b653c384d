"""The data of a run: pictures read, damaged once, annotated; some held out; near-duplicates reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from os.path import normpath
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ambient_solve.data.contrast import Contrast
from ambient_solve.data.corruption import MANIFEST, corrupt, fingerprint, read_corrupted, read_settings
from ambient_solve.data.duplicates import duplicate_groups
from ambient_solve.data.frozen import freeze, hide
from ambient_solve.data.images import read_images, shuffled
from ambient_solve.data.leaks import damaged_copies
from ambient_solve.data.sample import Sample
from ambient_solve.data.skipped import about_skipped
from ambient_solve.data.table import read_table, with_levels
from ambient_solve.errors import AmbientSolveError, UnreadableFile
from ambient_solve.objectives.base import Objective
from ambient_solve.objectives.consistency import Consistency
from ambient_solve.objectives.denoise import buffer
from ambient_solve.resume import digest
from ambient_solve.training.config import Config, Source
from ambient_solve.training.holding import Picture, is_clean, set_apart
from ambient_solve.training.inventory import Inventory, content
from ambient_solve.training.process import at_their_levels
from ambient_solve.training.stages import stage_of_source


@dataclass(frozen=True)
class Data:
    """All stored samples, the chance of each (n,), and what is held out.

    Attributes:
        held_out: Clean pictures (C, H, W), uint8 or floats in the units of the prior.
        held_out_noisy: Damaged samples, of sources without any clean one, or where a share of all is held out.
        inventories: What each source holds, in the order of the settings.
        notes: Sentences on what was read, to be said before training.
        stage: Stage of the run at which each sample is drawn, (n,), from 0.
    """

    samples: list[Sample]
    share: np.ndarray
    held_out: list[Tensor]
    held_out_noisy: list[Sample] = field(default_factory=list)
    inventories: list[Inventory] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stage: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    def keep_probability(self, objective: Objective) -> float | None:
        """Share of the entries that `objective` lets a network see of these samples, drawn by their share."""
        if not self.samples:
            return objective.keep_probability(1.0)
        observed = [1.0 if s.mask is None else float(s.mask.float().mean()) for s in self.samples]
        return objective.keep_probability(float(np.average(observed, weights=self.share)))


def read_data(config: Config, main: bool) -> Data:
    """Read every source of a run, damage what is to be damaged, and hold out what is to be held out.

    Args:
        config: Of the run.
        main: Whether this process shows progress and reports duplicates.

    Returns:
        What the run learns from, and what it is measured on.

    Raises:
        AmbientSolveError: a source that cannot be read, or that the objective cannot learn from.
    """
    notes: list[str] = []
    pictures = [pictures_of(source, config, notes) for source in config.sources]
    stored = [_stored(source, config, notes) for source in config.sources]
    config, pictures, stored, apart = set_apart(config, pictures, stored, notes)
    samples, share, inventories, stage = [], [], [], []
    held_out = [s.z.float() for own in apart for s in own if is_clean(s)]
    noisy = [s for own in apart for s in own if not is_clean(s)]
    for source, own_pictures, own, own_apart in zip(config.sources, pictures, stored, apart, strict=True):
        entries = [(s.name, content(s)) for s in (*own, *own_apart)]
        entries += [(name, content(picture)) for name, picture in own_pictures]
        if own_pictures:
            own, kept = _samples(source, own_pictures, config, main)
            own = (
                with_levels(own, read_table(Path(config.data_root) / source.annotations)) if source.annotations else own
            )
            held_out += kept
        if own and own[0].z.shape[0] != config.network.channels:
            raise AmbientSolveError(f"{source.path} has {own[0].z.shape[0]} channels, network.channels says otherwise.")
        if source.hide:
            own = hide(own, config.corruption.seed, listing(source, config))
        if source.freeze:
            own = freeze(own, source.freeze, config.corruption.seed, buffer(config.s_max), listing(source, config))
        own = at_their_levels(config, own)
        if config.drop_noisy:
            own = [s for s in own if s.damage == "clean" and s.sigma_noise == 0]
        inventories.append(Inventory(source.path, entries, source.held_out, fingerprint(own)))
        samples += own
        area = [s.weight * (s.z[0].numel() if source.by_area else 1) for s in own]
        share += [source.share * a / (sum(area) or 1) for a in area]
        stage += [stage_of_source(config, len(inventories) - 1)] * len(own)
    if config.duplicates and main:
        _report_duplicates(config, pictures, stored, apart, [row for i in inventories for row in i.pictures])
    if any(min(picture.shape[-2:]) < config.crop for picture in held_out + [s.z for s in noisy]):
        raise AmbientSolveError(f"A held-out picture is smaller than the crop of {config.crop}. Lower `crop`.")
    return Data(samples, np.array(share), held_out, noisy, inventories, list(dict.fromkeys(notes)), np.array(stage))


def damaged_before(config: Config) -> dict[str, dict[str, Any]]:
    """What is recorded of each source, by its path, that was damaged before this run."""
    paths = [source.path for source in config.sources if _split(source)[0] == "corrupted"]
    return {path: read_settings(Path(config.data_root) / path.rpartition(":")[2]) for path in paths}


def refuse_noisy(samples: list[Sample]) -> None:
    """Refuse samples that hold white noise where the denoiser is to remove a field.

    Args:
        samples: What it is to learn from.

    Raises:
        AmbientSolveError: one is noisy.
    """
    noisy = next((s for s in samples if s.sigma_noise > 0), None)
    if noisy is not None:
        raise AmbientSolveError(
            f"{noisy.name} holds white noise of level {noisy.sigma_noise:g}, and noise: {{kind: field}} is correlated: "
            "train on clean pictures, or with noise: {kind: white}."
        )


def refuse_unsuited(objective: Objective, samples: list[Sample]) -> None:
    """Refuse samples that the objective would misunderstand: what was never observed, or noise, is no picture.

    Args:
        objective: The objective.
        samples: What it is to learn from.

    Raises:
        AmbientSolveError: a sample does not suit it.
    """
    hidden = next((s for s in samples if s.mask is not None and not bool(s.mask.all())), None)
    if hidden is not None and not objective.incomplete:
        kind = "kspace" if hidden.maps is not None else "masked"
        raise AmbientSolveError(
            f"{hidden.name} is incomplete, which the objective does not know: set objective: {{kind: {kind}}}."
        )
    pixels = hidden is not None and hidden.signs is None and hidden.maps is None
    if pixels and isinstance(objective, Consistency) and not objective.mask_channels:
        raise AmbientSolveError(
            f"{hidden.name} is incomplete, and the objective tells the network of no mask: set objective: {{kind: "
            f"consistency, mask_channels: {len(hidden.mask)}}}."
        )
    bad = next((s for s in samples if max(s.sigma_noise, s.sigma_min, s.sigma_max) > 0), None)
    if bad is not None and not objective.noisy:
        raise AmbientSolveError(
            f"{bad.name} is damaged, and the objective needs clean samples: set drop_noisy, or restore the samples "
            "first (trainers/em.py)."
        )


def _split(source: Source) -> tuple[str, str]:
    kind, _, rest = source.path.rpartition(":")
    return kind, rest


def pictures_of(source: Source, config: Config, notes: list[str]) -> list[Picture]:
    """The clean pictures of a source, those that are held out last; none of data that are damaged already.

    Args:
        source: The source.
        config: Of the run.
        notes: Gets sentences on what was read.

    Returns:
        (name, uint8 (C, H, W)).

    Raises:
        AmbientSolveError: it cannot be read, or has too few pictures.
    """
    kind, rest = _split(source)
    if kind == "corrupted":
        return []
    place = Path(config.data_root) / rest
    if not kind and (place / MANIFEST).is_file():
        raise AmbientSolveError(
            f'{source.path} is a damaged data set: give its path as "corrupted:{source.path}", so that each picture '
            "counts at the noise levels at which its damage does not show."
        )
    path = f"{kind}:{place}" if kind else str(place)
    found = read_images(path, config.network.channels, source.shrink, source.follow_outside, notes.append)
    whole = source.held_out or source.shuffle
    pictures = list(found if whole else islice(found, source.limit or None))
    _look_at(source, config, [p for _, p in pictures], notes)
    pictures = shuffled(pictures, config.seed) if source.shuffle else pictures
    keep = len(pictures) - source.held_out
    if keep < 1:
        raise AmbientSolveError(f"{source.path} has but {len(pictures)} pictures; {source.held_out} are held out.")
    return pictures[: min(source.limit or keep, keep)] + pictures[keep:]


def _stored(source: Source, config: Config, notes: list[str]) -> list[Sample]:
    """The samples of a source that was damaged before, with the levels of its table; none of others."""
    kind, rest = _split(source)
    if kind != "corrupted":
        return []
    skipped: list[UnreadableFile] = []
    place = Path(config.data_root) / rest
    found = read_corrupted(place, config.network.channels, source.follow_outside, skipped)
    # What is held out comes last, beyond any limit.
    own = list(found if source.held_out or source.shuffle else islice(found, source.limit or None))
    notes += filter(None, [about_skipped(source.path, skipped, len(own))])
    _look_at(source, config, own, notes)
    own = shuffled(own, config.seed) if source.shuffle else own
    own = own if source.held_out else own[: source.limit or None]
    return _with_table(source, config, own)


def _with_table(source: Source, config: Config, own: list[Sample]) -> list[Sample]:
    """The samples with the levels of the table of their source, if it has one."""
    return with_levels(own, read_table(Path(config.data_root) / source.annotations)) if source.annotations else own


def _look_at(source: Source, config: Config, pictures: Sequence[Tensor | Sample], notes: list[str]) -> None:
    """Refuse pictures that show nothing, and note where they show suspiciously little."""
    contrast = Contrast()
    for picture in pictures:
        contrast.add(picture)
    notes += filter(None, [contrast.about(source.path, config.network.sigma_data)])


def listing(source: Source, config: Config) -> str:
    """What the noise of a source depends on: its path, and its scale where one path is listed at several.

    Args:
        source: One of those of the run.
        config: Of the run.

    Returns:
        A text that is unlike that of any other source.
    """
    several = sum(other.path == source.path for other in config.sources) > 1
    return f"{normpath(source.path)} / {source.shrink}" if several else normpath(source.path)


def _samples(source: Source, pictures: list[Picture], config: Config, main: bool) -> tuple[list[Sample], list[Tensor]]:
    """What a source of clean pictures trains on, damaged, and what it holds out."""
    _, rest = _split(source)
    keep = len(pictures) - source.held_out
    bar = tqdm(pictures[:keep], f"damage {rest}", leave=False, disable=not main)
    own = list(corrupt(bar, keep, config.corruption, source=listing(source, config)))
    # One picture of another source may have the same name.
    several = sum(other.path == source.path for other in config.sources) > 1
    prefix = f"{rest} / {source.shrink}" if several else rest
    own = [replace(s, name=f"{prefix}/{s.name}") for s in own] if len(config.sources) > 1 else own
    held_out = [picture for _, picture in pictures[keep:]]
    if config.drop_small:  # after the damage: which pictures stay clean must not depend on the scale
        own = [s for s in own if min(s.z.shape[-2:]) >= config.crop]
        held_out = [picture for picture in held_out if min(picture.shape[-2:]) >= config.crop]
    return own, held_out


def _report_duplicates(
    config: Config,
    pictures: list[list[Picture]],
    damaged: list[list[Sample]],
    apart: list[list[Sample]],
    entries: Sequence[tuple[str, str]] = (),
) -> None:
    """Say what is there twice, above all what is both learned from and measured on; once for a set of sources.

    Args:
        pictures: Of each source, clean.
        damaged: What is trained on of each source that was damaged before.
        apart: What is held out of each such source.
        entries: (name, hash) of all that was read: the same sources may hold other pictures.
    """
    path = Path(config.out) / "duplicates.json"
    sources = [{k: getattr(s, k) for k in ("path", "shrink", "shuffle", "limit", "held_out")} for s in config.sources]
    contents = digest(json.dumps(list(entries)).encode())
    before = json.loads(path.read_text()) if path.is_file() else {}
    if before.get("sources") == sources and before.get("contents") == contents:
        return
    # What is listed at several scales is no duplicate of itself.
    once = {s.path: (s, own) for s, own in reversed([*zip(config.sources, pictures, strict=True)])}.values()
    named = [(f"{s.path}/{name}", p) for s, own in once for name, p in own]
    held_out = {f"{s.path}/{name}" for s, own in once for name, _ in own[len(own) - s.held_out :]}
    groups = duplicate_groups(named)
    leaks = [g for g in groups if held_out & set(g) and set(g) - held_out]
    measured_on = [(name, picture) for name, picture in named if name in held_out]
    stored = list(zip(config.sources, damaged, apart, strict=True))
    measured_on += [
        (f"{s.path}/{sample.name}", sample.z) for s, _, kept in stored for sample in kept if is_clean(sample)
    ]
    trained_on = [replace(sample, name=f"{s.path}/{sample.name}") for s, own, _ in stored for sample in own]
    # Pictures that this run damages itself are found by `duplicate_groups`, but for what a damaged folder holds out.
    trained_on += [Sample(name, p) for name, p in named if name not in held_out and any(kept for *_, kept in stored)]
    copies = [g for g in damaged_copies(measured_on, trained_on) if not any(set(g) <= set(leak) for leak in leaks)]
    groups, leaks = groups + copies, leaks + copies
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {"sources": sources, "contents": contents, "groups": groups, "held out and trained on": leaks}
    path.write_text(json.dumps(found, indent=1) + "\n")
    if groups:
        print(f"{len(groups)} groups of near-duplicates, {len(leaks)} of them held out and trained on: {path}")
