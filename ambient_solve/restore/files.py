"""Picture files through a `Solver`: what the command line and the app call.

    outcome = restore_file("old.png", load_prior(), Inpaint(mask="scratches.png"), out="restored/old")
    outcome.restoration.mean, outcome.chi2, outcome.warning

`restore_files` takes lists and folders, skips what an earlier run has finished and goes on after a bad file. Several
processes share the work, with the results of one: `torchrun --nproc-per-node 2 -m ambient_solve restore FOLDER ...`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambient_solve.errors import AmbientSolveError, UnreadableFile, reason, shown
from ambient_solve.knobs import knobs
from ambient_solve.presets import DEFAULT, preset_named
from ambient_solve.restore import memory
from ambient_solve.restore.coarse import hole_words, needs_coarse, observed_of, with_coarse
from ambient_solve.restore.memory import Drawing, fitting, joined, size_of
from ambient_solve.restore.pictures import read_measurement
from ambient_solve.restore.price import large_words
from ambient_solve.restore.sharing import PART, Parts, Share, groups
from ambient_solve.restore.tasks import Task
from ambient_solve.restore.unknown import with_estimates
from ambient_solve.restore.working import at_size
from ambient_solve.resume import SETTINGS, digest, finished, read_record
from ambient_solve.saving import check_folder, save_png

if TYPE_CHECKING:
    from ambient_solve.priors.base import Prior
    from ambient_solve.results import Restoration
    from ambient_solve.verdict.judge import Verdict


SAMPLES = 8
"""Samples that are drawn where an algorithm is given in place of a preset."""
REPLACED = "this replaces what a run with other settings had left in that folder; another --out keeps both"
"""Note on a picture that had been restored otherwise before."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one file.

    Attributes:
        folder: Where the pictures are. restoration: The samples; None where the file was skipped or failed.
        chi2: Mean data misfit of the samples, 1 is right.
        verdict: Whether the stated damage fits; None where nothing was restored. warning: It in words, if it does not.
        notes: What was converted. error: Why the file could not be restored, else empty.
        skipped: Whether an earlier run with the same settings had finished it.
        algorithm: Name of the algorithm that drew the samples: what "auto" took, where that was asked for.
        problem: The error of which `error` is the sentence.
        drawn: Where other processes draw samples of it too, and this one does not save it: how many it has drawn.
    """

    path: Path
    folder: Path | None = None
    restoration: Restoration | None = None
    chi2: float = float("nan")
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    verdict: Verdict | None = None
    error: str = ""
    skipped: bool = False
    drawn: int | None = None
    problem: AmbientSolveError | None = None
    algorithm: str = ""

    @property
    def warning(self) -> str:
        """What does not fit, and what to try, in words; empty where the stated damage fits."""
        return "" if self.verdict is None else self.verdict.sentence


def restore_file(
    path: str | Path,
    prior: Prior,
    damage: Task,
    *,
    preset: str | None = None,
    algorithm: str | None = None,
    options: Mapping[str, Any] | None = None,
    n_samples: int | None = None,
    seed: int = 0,
    cond: Any = None,
    out: str | Path | None = None,
    progress: bool | None = False,
    share: Share | None = None,
    max_pixels: int | None = None,
    size: int | None = None,
    tell: Callable[[str], object] | None = None,
    watch: Callable[[float], object] | None = None,
) -> Outcome:
    """Restore one damaged picture.

    Args:
        path: The picture, the measurement itself.
        prior: The diffusion prior.
        damage: What happened to the picture. Numbers that are "auto" are estimated first; the outcome's notes and the
            settings hold them, and a run that states them is the same.
        preset: "fast", "balanced", "faithful" or "creative": algorithm, knobs and samples, see `ambient_solve.presets`;
            "balanced" unless an algorithm is given.
        algorithm: Name of the sampler, in place of a preset; "auto" chooses by the operator.
        options: Knobs of the algorithm, in place of those of the preset.
        n_samples: Posterior samples, 1 or more; by default those of the preset, or 8.
        seed: Sample s depends on `(seed, s)` alone.
        cond: Passed on to the prior, such as a class, a whole number, or a prompt.
        out: Folder to save into; what the same request has finished there is not done again. None saves nothing.
        progress: Show a progress bar; None shows one in a terminal and in a notebook.
        share: The part of this process, of several that share the work; needs `out`. The last one saves the picture.
        max_pixels: A larger picture is refused before it is decoded; `data.images.MAX_PIXELS` by default.
        size: Longer side of the picture while it is restored, in pixels; what changed is put back at full size.
        tell: Takes sentences before the run: what a large picture costs, and holes that are too wide for the prior.
        watch: Called before each tile of a picture in tiles with the share that is done; what it raises ends the run.

    Returns:
        The outcome: the restoration, and where it was saved.

    Raises:
        AmbientSolveError: the file, the mask, the damage or the settings do not fit.
    """
    from ambient_solve.solver import make_solver

    if prior.affine is None and preset is None:
        algorithm = algorithm or "auto"  # those of the presets need an affine decode
    prior.check_condition(cond)
    algorithm, options, samples = chosen_method(damage.name, preset, algorithm, options)
    n_samples = samples if n_samples is None else n_samples
    solver = make_solver(prior, algorithm, options)
    path = Path(path)
    picture = read_measurement(path, prior.picture_channels, max_pixels)
    damage, said, estimated = with_estimates(damage, picture)
    damage.measure(picture)  # says what does not fit
    picture = replace(picture, notes=picture.notes + said + damage.notes(picture))
    request = {
        "input": path.name,
        "task": damage.name,
        "damage": {k.name: getattr(damage, k.name) for k in knobs(type(damage)) if k.name not in ("mask", "kernel")},
        "algorithm": algorithm,
        "options": dict(options or {}),
        "n_samples": n_samples,
        "seed": seed,
        "sources": [digest(part) for part in (path.read_bytes(), *damage.sources(path))],
        "prior": digest(*(p.detach().cpu().contiguous().numpy().tobytes() for p in prior.state_dict().values())),
    }
    request |= {name: value for name, value in (("cond", recorded(cond, prior)), ("size", size)) if value is not None}
    folder = None if out is None else Path(out)
    done = None if folder is None else finished(folder, request)
    if done is not None:
        from ambient_solve.verdict.judge import Verdict

        verdict = Verdict.from_record(done["verdict"]) if "verdict" in done else None
        seen = {"chi2": done["misfit"], "seconds": done["seconds"], "verdict": verdict}
        return Outcome(path, folder, notes=picture.notes, skipped=True, algorithm=done["algorithm"], **seen)
    for name, found in damage.masks(picture).items() if folder is not None else ():
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_png(found[None], folder / f"{name}.png")
    task, piece = at_size(damage, picture, size)
    small, full = piece.picture, picture
    measured, observed = task.measure(small), observed_of(task, small) if prior.affine is not None else None
    at_once, tiled = fitting(solver, measured.op, small, n_samples)
    before = [] if tell is None else [large_words(solver, *size_of(measured.op, small), n_samples, tiled is not None)]
    if observed is not None and needs_coarse(observed):
        before.append(hole_words(observed))
        small = replace(small, notes=(*small.notes, before[-1]))
    for words in filter(None, before if tell is not None else ()):
        tell(f"{path.name}: {words}.")
    if observed is not None and needs_coarse(observed):
        measured = with_coarse(prior, small, observed, task.sigma, seed)
    tile = (memory.TILE, memory.OVERLAP)
    draw = Drawing(solver, measured, small, task, seed, at_once, tiled, tile, progress, cond, watch)
    together = solver.algorithm is not None and solver.algorithm.interacting
    every = groups(n_samples, math.prod(draw.size), prior.device.type, together)

    def finish(parts: list[Restoration]) -> Restoration:
        result = joined(parts, small)
        settings = {**result.settings, **estimated, "request": request, "misfit": float(result.chi2.mean())}
        samples = task.to_output(result.samples, small)
        samples = samples if small.y.shape == full.y.shape or size is None else piece.paste(samples)
        return replace(result, samples=samples, settings=settings)

    if folder is None or len(every) == 1:
        if share is not None and not share.takes(0):
            return Outcome(path, folder, drawn=0)
        result = finish([draw(group) for group in every])
        if folder is not None:
            _save(result, folder, picture.profile)
        return _outcome(path, folder, result)
    return _shared(path, folder, request, every, share or Share(), draw, finish, picture.profile)


def recorded(cond: Any, prior: Prior) -> Any:
    """A condition as settings.json holds it: the words of a prompt, and what its concepts are.

    Args:
        cond: As for `restore_file`.
        prior: That it conditions.

    Returns:
        What JSON can hold; None for no condition.
    """
    if not dataclasses.is_dataclass(cond) or isinstance(cond, type):
        return cond
    from ambient_solve.priors.latent_pipeline import known_concepts

    tables = {
        c.name: digest(*(t.cpu().numpy().tobytes() for t in c.state_dict().values())) for c in known_concepts(prior)
    }
    return {**dataclasses.asdict(cond), **({"concepts": tables} if tables else {})}


def chosen_method(
    task: str, preset: str | None = None, algorithm: str | None = None, options: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any], int]:
    """What a task is restored with.

    Args:
        task: Its name.
        preset: Name of a preset; None is the default, unless there is an algorithm.
        algorithm: Name of an algorithm, or "auto"; None is that of the preset.
        options: Knobs, in place of those of the preset.

    Returns:
        The algorithm, its knobs, and how many samples are drawn.

    Raises:
        AmbientSolveError: both a preset and an algorithm are given, or there is no such preset.
    """
    if algorithm is not None:
        if preset is not None:
            raise AmbientSolveError(
                f"preset {preset!r} chooses the algorithm, and {algorithm!r} was given; leave one of them out."
            )
        return algorithm, dict(options or {}), SAMPLES
    found = preset_named(DEFAULT if preset is None else preset)
    name, own = found.chosen(task)
    return name, own | dict(options or {}), found.samples


def _shared(
    path: Path,
    folder: Path,
    request: dict[str, Any],
    every: list[range],
    share: Share,
    draw: Callable[[range], Restoration],
    finish: Callable[[list[Restoration]], Restoration],
    profile: bytes,
) -> Outcome:
    """Draw what is of this `share` and not stored yet; then, if nothing is missing, save the picture."""
    parts, mine, saved = Parts(folder, request), [g for g in range(len(every)) if share.takes(g)], []
    if not mine:
        return Outcome(path, folder, drawn=0)
    drawn = []
    for number in mine:
        part = parts.read(number)
        if part is None:
            part = parts.write(number, draw(every[number]))
        drawn.append(part)

    def save(all_: list[Restoration]) -> None:
        saved.append(finish(all_))
        _save(saved[0], folder, profile)

    parts.finish(len(every), lambda: finished(folder, request) is not None, save)
    if saved:
        return _outcome(path, folder, saved[0])
    own = finish(drawn)
    return replace(_outcome(path, folder, own), restoration=None, drawn=own.samples.shape[1])


def _outcome(path: Path, folder: Path | None, result: Restoration) -> Outcome:
    settings = result.settings
    seen = {"chi2": settings["misfit"], "seconds": result.seconds, "verdict": result.verdict}
    return Outcome(path, folder, result, notes=tuple(settings["notes"]), algorithm=settings["algorithm"], **seen)


def restore_files(
    inputs: Sequence[str | Path],
    prior: Prior,
    damage: Task,
    *,
    out: str | Path,
    rank: int = 0,
    world: int = 1,
    tell: Callable[[str], object] | None = None,
    **settings: Any,
) -> Iterator[Outcome]:
    """Restore files and folders of files into subfolders of `out`; a bad file, whatever is wrong, stops no other.

    Args:
        inputs: Pictures, and folders of them.
        prior: The diffusion prior.
        damage: What happened to the pictures.
        out: Folder of the results.
        rank: Number of this process, 0 to `world - 1`.
        world: Processes with the same arguments that share the work; any number of them may finish what others left.
        tell: Takes a sentence on what of a folder is left out; by default it is a warning.
        settings: Further arguments of `restore_file`.

    Yields:
        An outcome for each picture.

    Raises:
        AmbientSolveError: what can fit no file, such as an unknown knob or an `out` that is a file.
    """
    from ambient_solve.solver import make_solver

    out = Path(out)
    check_folder(out)
    own = {name: settings.get(name) for name in ("preset", "algorithm", "options")}
    make_solver(prior, *chosen_method(damage.name, **own)[:2])
    pictures = plan(inputs, out, tell if rank == 0 else _silent)
    for number, (path, folder) in enumerate(pictures):
        share = Share(number, len(pictures), rank, world)
        if share.empty:
            continue
        before = read_record(folder)
        try:
            outcome = restore_file(
                path, prior, damage, out=folder, share=share if world > 1 else None, tell=tell, **settings
            )
            if before and not outcome.skipped:
                outcome = replace(outcome, notes=(*outcome.notes, REPLACED))
        except AmbientSolveError as error:
            outcome = Outcome(path, error=str(error), problem=error)
        except Exception as error:  # noqa: BLE001 - whatever one file or one operator raises, the others are restored
            problem = UnreadableFile(path, f"cannot be restored: {reason(error, path)}.")
            problem.__cause__ = error
            outcome = Outcome(path, error=str(problem), problem=problem)
        if outcome.drawn != 0:
            yield outcome


def plan(
    inputs: Sequence[str | Path], out: Path, tell: Callable[[str], object] | None = None
) -> list[tuple[Path, Path]]:
    """Each picture to restore, and the folder of its results.

    Args:
        inputs: Pictures, and folders, which are searched recursively.
        out: Folder of the results, which is not searched.
        tell: Takes a sentence on what looks like a picture and is left out; by default it is a warning.

    Returns:
        (picture, folder) pairs, no folder twice.

    Raises:
        AmbientSolveError: a folder holds no picture, or two pictures have one name.
    """
    from ambient_solve.reading.listing import list_pictures
    from ambient_solve.reading.pictures import SUFFIXES

    found: dict[Path, Path] = {}
    for given in map(Path, inputs):
        if not given.is_dir():
            found[given] = Path()
            continue
        listing = list_pictures(given, without=out)
        if not listing.pictures:
            raise AmbientSolveError(f"The folder {given} holds no picture ({', '.join(SUFFIXES)}). {listing.words}")
        if listing.left_out:
            (tell or _warn)(listing.words)
        found.update({p: p.parent.relative_to(given) for p in listing.pictures})
    short = [parent / p.stem for p, parent in found.items()]
    long = [parent / p.name for p, parent in found.items()]
    names = short if len(set(short)) == len(short) else long
    if len(set(names)) < len(names):
        twin = next(n for n in names if names.count(n) > 1)
        raise AmbientSolveError(f"Two of the pictures are called {twin}. Restore them into different folders (--out).")
    return [(p, out / name) for p, name in zip(found, names, strict=True)]


def _warn(words: str) -> None:
    warnings.warn(words, stacklevel=4)


def _silent(words: str) -> None:
    """One process of several says what is left out."""


def unreadable(inputs: Sequence[str | Path]) -> list[Outcome]:
    """An `Outcome` for each of `inputs` if none of them is there and a picture, else nothing; torch is not imported."""
    from PIL import Image, UnidentifiedImageError

    from ambient_solve.reading.limits import FORMATS
    from ambient_solve.reading.pictures import OTHERS

    found = []
    for path in map(Path, inputs):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                Image.open(path, formats=FORMATS).close()
            return []
        except FileNotFoundError:
            found.append(Outcome(path, error=f"There is no file {shown(path)}."))
        except UnidentifiedImageError:
            hint = f" ({OTHERS[path.suffix.lower()]})" if path.suffix.lower() in OTHERS else ""
            empty = "empty (0 bytes); expected a picture"
            why = f"not a picture that can be read{hint}" if path.stat().st_size else empty
            found.append(Outcome(path, error=f"{shown(path)} is {why}."))
        except (OSError, Image.DecompressionBombError):
            return []  # a folder, or what `open_image` has words for
    return found


def _save(result: Restoration, folder: Path, profile: bytes = b"") -> None:
    """Save into `folder` so that an interrupted run leaves no settings.json behind; pictures keep the `profile`."""
    check_folder(folder)
    part = folder / PART
    shutil.rmtree(part, ignore_errors=True)
    if result.samples.shape[1] > 1:
        # std.png is scaled to its largest value: say which.
        result = replace(result, settings={**result.settings, "std_white": float(result.std.max())})
    written = result.save(part, profile)
    if (folder / SETTINGS).exists():
        (folder / SETTINGS).unlink()
        for old in [*folder.glob("sample-*.png"), *folder.glob("std.png")]:
            old.unlink()
    for file in sorted(written, key=lambda p: p.name == SETTINGS):
        os.replace(file, folder / file.name)
    part.rmdir()
