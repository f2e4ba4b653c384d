"""What a participant hands in: a table of weights and noise levels for the pool, or pictures of their own.

    {"id": "5d0c...", "weight": 1.0, "sigma_noise": 0.2, "sigma_min": 0.0, "sigma_max": 0.0}

One JSON object a line. A picture is drawn in proportion to its weight, 1 where none is given; `sigma_noise` is the
noise that it holds, and it is used at levels above `sigma_min` or below `sigma_max` (Ambient Diffusion Omni; Daras et
al., 2025, arXiv 2506.10038), all in units of [-1, 1] pictures. A row may name a `stage`, 0 by default: the pictures of
the next stage take over when the loss on those with `"held_out": true`, which no stage trains on, rises at some level.

Tracks: `select`, rows of the pictures that are used as if they were clean; `annotate`, a row with levels for every
picture; `bring`, a folder of pictures, or a damaged data set, in place of the pool.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ambient_solve.data.annotation import Admission
from ambient_solve.data.corruption import LEVELS, MANIFEST, fingerprint, read_corrupted
from ambient_solve.data.duplicates import duplicate_groups
from ambient_solve.data.images import read_images
from ambient_solve.data.leaks import damaged_copies
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.objectives.denoise import buffer
from ambient_solve.reading.limits import parse_json
from ambient_solve.testbed.domains import square
from ambient_solve.testbed.pool import Pool, Truth, copy_threshold, picture_id
from ambient_solve.testbed.recipe import LARGEST, S_MAX, SMALLEST
from ambient_solve.testbed.record import content_hash

TRACKS = ("select", "annotate", "bring")
"""What a participant may decide."""
STAGES = 4
"""Stages of an entry, at most."""
BROUGHT = 100_000
"""Pictures that are brought, at most."""
ROW_BYTES = 400
"""Bytes of a row of a table, at most."""


@dataclass(frozen=True)
class Choice:
    """A row of a table: how one picture is used.

    Attributes:
        id: Of the picture.
        weight: Its chance to be drawn, relative to the others, 0 or more.
        sigma_noise: Noise that it holds, in units of z.
        sigma_min: It is used at levels above this one; inf is none.
        sigma_max: It is used at levels below this one too; 0 is none.
        stage: At which stage of the training, from 0.
        held_out: Whether it is kept out of training, to end the stages by.
    """

    id: str
    weight: float = 1.0
    sigma_noise: float = 0.0
    sigma_min: float = 0.0
    sigma_max: float = 0.0
    stage: int = 0
    held_out: bool = False


NUMBERS = ("weight", *LEVELS)
"""Numbers of a row."""


@dataclass(frozen=True)
class Entry:
    """An entry that was found valid.

    Attributes:
        track: One of `TRACKS`.
        rows: The table; of `bring` a row for each picture.
        brought: The pictures of `bring`, named as in the rows; empty otherwise.
    """

    track: str
    rows: tuple[Choice, ...]
    brought: tuple[Sample, ...] = ()

    @property
    def hash(self) -> str:
        """Of the table and what was brought; the order of the rows does not count."""
        rows = sorted((asdict(row) for row in self.rows), key=lambda row: (row["stage"], row["id"]))
        return content_hash([self.track, [_plain(row) for row in rows], fingerprint(self.brought)])

    @property
    def stages(self) -> int:
        """How many stages there are."""
        return 1 + max(row.stage for row in self.rows)

    @property
    def validating(self) -> int:
        """Pictures that are held out to end the stages by."""
        return sum(row.held_out for row in self.rows)

    def samples(self, pool: Pool, stage: int) -> list[Sample]:
        """The pictures of a stage with their levels and weights; in the first one, those held out come last.

        Args:
            pool: Their pool.
            stage: From 0.

        Returns:
            Samples in the order of their ids: the order of the table decides nothing.
        """
        known = {s.name: s for s in (self.brought or pool.samples)}
        rows = [r for r in self.rows if r.stage == stage and (r.held_out or r.weight > 0)]
        found = []
        for row in sorted(rows, key=lambda r: (r.held_out, r.id)):
            damage = "damaged" if row.sigma_noise or row.sigma_min else "clean"
            levels = {name: getattr(row, name) for name in NUMBERS}
            found.append(replace(known[row.id], damage=damage, **levels))
        return found


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {k: "inf" if v == math.inf else v for k, v in row.items()}


def write_entry(path: Path, rows: Sequence[Choice]) -> None:
    """Write a table, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(_plain(asdict(row))) + "\n" for row in rows))


def read_entry(path: Path, pool: Pool, track: str) -> Entry:
    """Read an entry and refuse what is not allowed, in one sentence.

    Args:
        path: The table; a folder or pack of pictures for `bring`.
        pool: What it is for.
        track: One of `TRACKS`.

    Returns:
        The entry.

    Raises:
        AmbientSolveError: it is not valid.
    """
    if track not in TRACKS:
        raise AmbientSolveError(f"There is no track {track!r}. {suggestion(track, TRACKS)}")
    if track == "bring":
        return _brought(path, pool)
    rows = _read_rows(path, len(pool.samples))
    _check_rows(rows, {s.name for s in pool.samples}, path)
    if track == "select" and (odd := next((r for r in rows if any(getattr(r, k) for k in LEVELS)), None)):
        raise AmbientSolveError(
            f"{odd.id} has noise levels, which the track select does not take: leave them out, or enter annotate."
        )
    if track == "annotate" and (lost := {s.name for s in pool.samples} - {r.id for r in rows}):
        raise AmbientSolveError(
            f"{len(lost)} of {len(pool.samples)} pictures have no row, such as {min(lost)}; annotate says of every "
            "picture how it is used, if with weight 0."
        )
    entry = Entry(track, tuple(rows))
    _check_cover(entry, pool)
    return entry


def _read_rows(path: Path, pictures: int) -> list[Choice]:
    """The rows of a table; one that is too long is refused before it is read."""
    if not path.is_file():
        raise AmbientSolveError(
            f"There is no table {path}; a row for each picture, one JSON object a line, was expected."
        )
    most = STAGES * pictures
    if (size := path.stat().st_size) > ROW_BYTES * most:
        raise AmbientSolveError(f"{path} has {size} bytes; a table of this pool has at most {ROW_BYTES * most}.")
    lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    if len(lines) > most:
        raise AmbientSolveError(f"{path} has {len(lines)} rows; a table of this pool has at most {most}.")
    if not lines:
        raise AmbientSolveError(f"{path} is empty; a row for each picture that is used was expected.")
    return [_read_row(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _read_row(line: bytes, where: str) -> Choice:
    row = parse_json(line, where)
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise AmbientSolveError(f"{where}: expected an object with an id, such as {{'id': ..., 'weight': 1}}.")
    if unknown := row.keys() - Choice.__dataclass_fields__.keys():
        raise AmbientSolveError(f"{where}: {min(unknown)!r} is unknown. {suggestion(min(unknown), asdict(Choice('')))}")
    values = dict(row)
    for name in NUMBERS:
        given = row.get(name, getattr(Choice, name))
        endless = given == "inf" or given == math.inf
        number = isinstance(given, (int, float)) and not isinstance(given, bool)
        if not ((name == "sigma_min" and endless) or (number and 0 <= given < math.inf)):
            raise AmbientSolveError(
                f"{where}: {name} = {given!r} is no number of 0 or more"
                + (" or 'inf'." if name == "sigma_min" else ".")
            )
        values[name] = float(given)
    stage, held_out = values.get("stage", 0), values.get("held_out", False)
    if type(stage) is not int or not 0 <= stage < STAGES or type(held_out) is not bool:
        raise AmbientSolveError(
            f"{where}: stage = {stage!r}, held_out = {held_out!r}; expected 0 to {STAGES - 1}, and true or false."
        )
    return Choice(**values)


def _check_rows(rows: Sequence[Choice], known: set[str], path: Path) -> None:
    """Refuse ids that are unknown or listed twice, and stages that do not fit."""
    lost = sorted({row.id for row in rows} - known)
    if lost:
        raise AmbientSolveError(
            f"{len(lost)} ids of {path} are not in the pool, such as {lost[0][:40]!r}: ids are those of its manifest."
        )
    keys = [(row.stage, row.id) for row in rows]
    if len(set(keys)) < len(keys):
        stage, twice = next(key for key in keys if keys.count(key) > 1)
        raise AmbientSolveError(f"{twice} has several rows for stage {stage}: give it one, with a larger weight.")
    held_out = {row.id for row in rows if row.held_out}
    odd = next((r for r in rows if r.held_out and (r.stage or any(getattr(r, k) for k in LEVELS))), None)
    if odd is not None:
        raise AmbientSolveError(f"{odd.id} is held out: it takes no levels, and stage 0.")
    both = next((r.id for r in rows if r.id in held_out and not r.held_out and r.weight > 0), None)
    if both is not None:
        raise AmbientSolveError(f"{both} is held out and trained on; a picture cannot be both.")
    stages = {row.stage for row in rows}
    if stages != set(range(len(stages))):
        raise AmbientSolveError(f"The stages are {sorted(stages)}; 0, 1 and so on were expected, none left out.")
    if (len(stages) > 1) != bool(held_out):
        raise AmbientSolveError(
            "Several stages need pictures with held_out, whose loss ends a stage, and one stage needs none."
        )


def _check_cover(entry: Entry, pool: Pool) -> None:
    """Refuse a stage that leaves a level of the training without any picture."""
    for stage in range(entry.stages):
        samples = [s for s in entry.samples(pool, stage) if s.weight > 0]
        samples = samples[: len(samples) - (entry.validating if stage == 0 else 0)] if entry.validating else samples
        levels = [np.array([getattr(s, name) for s in samples]) for name in LEVELS]
        low, high = (SMALLEST, LARGEST)
        if samples:
            low, high = Admission(*levels, np.array([s.weight for s in samples]), buffer(S_MAX)).gap()
            low, high = max(low, SMALLEST), min(high, LARGEST)
        if low <= high:
            of = f" of stage {stage}" if entry.stages > 1 else ""
            raise AmbientSolveError(
                f"No picture{of} is used at noise levels from {low:.3g} to {high:.3g}: give some a weight above 0, "
                "and let those that you take for clean have the levels 0."
            )


def _brought(path: Path, pool: Pool) -> Entry:
    """The entry of pictures that are brought."""
    if (path / MANIFEST).is_file():
        samples = list(read_corrupted(path, pool.channels))
    else:
        samples = [Sample(n, square(p, pool.side).float().div(127.5).sub(1).half()) for n, p in _large(path, pool)]
    if not 0 < len(samples) <= BROUGHT:
        raise AmbientSolveError(f"{path} holds {len(samples)} pictures; 1 to {BROUGHT} may be brought.")
    expected = (pool.channels, pool.side, pool.side)
    odd = next((s for s in samples if tuple(s.z.shape) != expected or s.mask is not None), None)
    if odd is not None:
        raise AmbientSolveError(f"{odd.name} is {tuple(odd.z.shape)}; whole pictures {expected} were expected.")
    # Known by their content, as those of a pool are; the same one twice is one.
    by_id = {picture_id(s.z): s for s in reversed(samples)}
    samples = [replace(s, name=name) for name, s in sorted(by_id.items())]
    rows = [Choice(s.name, s.weight, s.sigma_noise, s.sigma_min, s.sigma_max) for s in samples]
    entry = Entry("bring", tuple(rows), tuple(samples))
    _check_cover(entry, pool)
    return entry


def _large(path: Path, pool: Pool) -> list[Any]:
    """The pictures of a folder or pack that are large enough."""
    found = []
    for name, picture in read_images(path, pool.channels):
        if min(picture.shape[-2:]) < pool.side:
            raise AmbientSolveError(f"{name} is smaller than the {pool.side} pixels of the pool: leave it out.")
        found.append((name, picture))
        if len(found) > BROUGHT:
            break
    return found


def refuse_test_pictures(entry: Entry, truth: Truth) -> None:
    """Refuse brought pictures of which near-copies are held out to be scored on.

    Args:
        entry: The entry.
        truth: With the held-out pictures.

    Raises:
        AmbientSolveError: it has some.
    """
    if not entry.brought:
        return
    held_out = [(f"held out {i}", p) for i, p in enumerate(truth.held_out)]
    groups = damaged_copies(held_out, entry.brought, copy_threshold(truth.held_out))
    apart = {name for name, _ in held_out}
    if not duplicate_groups(held_out):
        whole = [(s.name, ((s.z.float() + 1) * 127.5).round().clamp(0, 255).byte()) for s in entry.brought]
        groups += [g for g in duplicate_groups([*held_out, *whole]) if apart & set(g) and set(g) - apart]
    copies = sorted({name for group in groups for name in group} - apart)
    if copies:
        raise AmbientSolveError(
            f"{len(copies)} brought pictures are near-copies of held-out ones, such as {copies[0]}: nobody may train "
            "on what is scored."
        )
