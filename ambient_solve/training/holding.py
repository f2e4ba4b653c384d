"""Which pictures a run holds out where nothing says which: a share of them, chosen by a hash of their contents.

The choice depends on what is in the pictures alone: not on their names or their order, nor on the seed. A picture that
has a near copy among the others is passed over, as the copy would be trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ambient_solve.data.leaks import damaged_copies
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.resume import digest
from ambient_solve.training.config import Config, Source
from ambient_solve.training.inventory import Inventory, content

Picture = tuple[str, Tensor]
"""A name and uint8 (C, H, W)."""

LEAST = 5
"""Pictures of a kind of which one is held out where the share is less, of a data set whose share is half a picture."""
SPARE = 3
"""Candidates that are looked at for each picture that is to be held out."""


def share_held_out(config: Config) -> float:
    """The share of every source that a run holds out by itself: none where a source says how many, or none validates.

    Args:
        config: Of the run.
    """
    stated = any(source.held_out for source in config.sources)
    return 0.0 if stated or not config.validate_every else config.held_out


def about_held_out(config: Config, inventories: Sequence[Inventory]) -> str:
    """How a run chose by itself what it held out, for the model card.

    Args:
        config: Of the run.
        inventories: Its sources.

    Returns:
        Sentences; empty where it did not choose.
    """
    apart = sorted(key for i in inventories for _, key in i.pictures[len(i.pictures) - i.held_out :])
    if not apart or not share_held_out(config):
        return ""
    return (
        f"Held out are {100 * config.held_out:g} % of each source, the pictures of the lowest hash of their contents "
        f"of those without a near copy that is trained on. Hash of them all: `{digest(*map(str.encode, apart))}`."
    )


def is_clean(sample: Sample) -> bool:
    """Whether a stored sample is a clean and whole picture, by what is said of it."""
    levels = max(sample.sigma_noise, sample.sigma_min, sample.sigma_max)
    return sample.damage == "clean" and levels == 0 and (sample.mask is None or bool(sample.mask.all()))


def set_apart(
    config: Config, pictures: list[list[Picture]], stored: list[list[Sample]], notes: list[str]
) -> tuple[Config, list[list[Picture]], list[list[Sample]], list[list[Sample]]]:
    """Set apart what is held out.

    Args:
        config: Of the run.
        pictures: Of each source, as read.
        stored: Of each source that was damaged before.
        notes: Gets a sentence on what was chosen.

    Returns:
        The configuration, of which each source says how many it holds out; the pictures, those held out last; and what
        of the stored samples is trained on, and what is held out.
    """
    if not (share := share_held_out(config)):
        parts = [_last(source, own) for source, own in zip(config.sources, stored, strict=True)]
        return config, pictures, [own for own, _ in parts], [apart for _, apart in parts]
    # One picture may be listed at several scales: the first listing decides for all of them.
    first = {s.path: k for k, s in reversed([*enumerate(config.sources)])}
    sets = [[*stored[k], *(Sample(name, picture) for name, picture in pictures[k])] for k in first.values()]
    hashes = [[content(s if stored[k] else s.z) for s in own] for k, own in zip(first.values(), sets, strict=True)]
    found = dict(zip(first, chosen(sets, hashes, share, config.crop), strict=True))
    names = {path: {own[i].name for i in found[path]} for path, own in zip(first, sets, strict=True)}
    sources, apart = [], []
    for k, source in enumerate(config.sources):
        last = [p for p in pictures[k] if p[0] in names[source.path]]
        pictures[k] = [p for p in pictures[k] if p[0] not in names[source.path]] + last
        apart.append([s for i, s in enumerate(stored[k]) if i in found[source.path]])
        stored[k] = [s for i, s in enumerate(stored[k]) if i not in found[source.path]]
        sources.append(replace(source, held_out=len(last) + len(apart[k])))
    number, total = sum(map(len, found.values())), sum(map(len, sets))
    notes.append(
        f"Held out to measure on: {number} of {total} pictures, by a hash of their contents; --held-out 0 trains on "
        "all."
        if number
        else "Nothing is held out to measure on: there are too few pictures, or each has a near copy among the others."
    )
    return replace(config, sources=tuple(sources)), pictures, stored, apart


def _last(source: Source, samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """What of a source that was damaged before is trained on, and what is held out: the last ones."""
    if not source.path.startswith("corrupted:") or not source.held_out:
        return samples, []
    clean = [i for i, s in enumerate(samples) if is_clean(s)]
    of = clean or list(range(len(samples)))
    if len(of) < source.held_out or len(samples) == source.held_out:
        kind = "clean pictures" if clean else "pictures"
        raise AmbientSolveError(f"{source.path} has but {len(of)} {kind}; {source.held_out} are held out.")
    apart = set(of[len(of) - source.held_out :])
    learned = [s for i, s in enumerate(samples) if i not in apart]
    return learned[: source.limit or None], [samples[i] for i in sorted(apart)]


def chosen(
    sets: Sequence[Sequence[Sample]], hashes: Sequence[Sequence[str]], share: float, crop: int
) -> list[set[int]]:
    """What to hold out of each data set: `share` of its clean pictures, and `share` of the others.

    Args:
        sets: The pictures of each data set, as read (uint8 too) or stored.
        hashes: Of their contents.
        share: 0 to 1.
        crop: Least side in pixels of a picture that is held out.

    Returns:
        Positions in each data set.
    """
    # Names that are unique: the leak check answers with names.
    marked = [[replace(s, name=f"{k} {i}") for i, s in enumerate(own)] for k, own in enumerate(sets)]
    wanted, candidates = [], []
    for own, own_hashes in zip(marked, hashes, strict=True):
        strata = [[], []]
        for i, sample in enumerate(own):
            strata[is_clean(sample)].append(i)
        for stratum in strata:
            worth = len(stratum) >= LEAST and share * len(own) >= 0.5
            number = max(round(share * len(stratum)), 1) if worth else 0
            large = [i for i in stratum if min(own[i].z.shape[-2:]) >= crop]
            order = sorted(large, key=lambda i, h=own_hashes: h[i])
            wanted.append((number, [own[i] for i in order]))
            candidates += [own[i] for i in order[: SPARE * number]]
    everything = [sample for own in marked for sample in own]
    leaking = {group[0] for group in damaged_copies([(s.name, s.z) for s in candidates], everything) if len(group) > 2}
    found: list[set[int]] = [set() for _ in sets]
    for number, order in wanted:
        free = [s.name for s in order[: SPARE * number] if s.name not in leaking]
        for name in free[:number]:
            k, i = map(int, name.split())
            found[k].add(i)
    return found
