"""`ambient-solve mri` and `ambient-solve mri-train`: scans to pictures, and scans to a prior."""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ambient_solve.cli.flags import knob_values
from ambient_solve.distributed import choose_device
from ambient_solve.errors import AmbientSolveError, DoubtfulResult, shown, suggestion
from ambient_solve.progress import progress_bar
from ambient_solve.resume import digest, finished, read_record
from ambient_solve.saving import check_folder

if TYPE_CHECKING:
    from ambient_solve.mri.prepare import Preparation
    from ambient_solve.mri.scan import Scan
    from ambient_solve.priors.base import Prior

MAX_COILS = 64
"""Most virtual coils that may be kept."""
MAX_ACCELERATION = 64
"""Largest acceleration R, entries of k-space over sampled ones."""
RECIPES = Path(__file__).parents[1] / "training" / "recipes"
"""Folder of the settings of trainings."""
METHODS = ("prior", "zero-filled", "cg-sense", "l1-wavelet", "tv")
"""Names of the methods: the learned prior, then the classical ones."""


@dataclass(frozen=True)
class Mri:
    """Reconstruct undersampled scans, slice by slice. For research, not for diagnosis.

    Each SCAN is a file of k-space (fastMRI or ISMRMRD .h5, BART .cfl, .npy, .npz, or FILE:ARRAY), or of a magnitude
    (NIfTI, DICOM), whose k-space is simulated. A knob of the algorithm is given as --KNOB VALUE. OUT/NAME gets, for
    each slice, report.png, reconstruction.npz and settings.json; mean.nii.gz and std.nii.gz hold all slices. What
    an earlier run has finished is skipped, and a bad slice stops no other.
    """

    scans: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SCAN [SCAN ...]", help_behavior_hint="")
    ]
    """Files of k-space or magnitudes, or folders of DICOM."""
    method: Annotated[str, tyro.conf.arg(metavar="|".join(METHODS))] = "prior"
    """The learned prior, or a classical method."""
    prior: str = "brain-mri"
    """The embedded one of heads, or a folder that `ambient-solve mri-train` made, or a hub id (owner/name)."""
    algorithm: str = "auto"
    """auto, which is proximal for scans, or one of those that `ambient-solve info` lists."""
    samples: int = 8
    """Posterior samples of each slice; their mean is the picture."""
    coils: int = 0
    """Virtual coils that are kept; 0 keeps those that hold more than noise."""
    slices: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...", help_behavior_hint="(default: all)")] = ()
    """Take only these slices, counted from 0."""
    acceleration: float = 0.0
    """Above 1: undersample a fully sampled scan by this factor, and compare with the whole; 0 takes it as it is."""
    kind: str = "random"
    """Mask of --acceleration: uniform, random, gaussian, poisson, radial or spiral."""
    acs: int = 16
    """Fully sampled lines in the middle of that mask."""
    axes: Annotated[str | None, tyro.conf.arg(metavar="AXES", help_behavior_hint="")] = None
    """What the axes of an array are, such as chw or schw, where it is not plain."""
    mask: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """A file with the sampling mask, where the zeros of k-space do not show it."""
    noise: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """A file with a noise scan (coils, n), to whiten the coils."""
    sigma: float = 0.0
    """Noise of each real and imaginary part of k-space, in its units; 0 estimates it."""
    out: Path = Path("mri")
    """Folder of the results."""
    seed: int = 0
    """Decides the samples, the part that is taken, and what is simulated."""
    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda")] = "auto"
    """auto takes the graphics card where there is one."""

    def run(self, texts: dict[str, str]) -> int:
        """Reconstruct with the knobs `texts`, as they were typed."""
        if not self.scans:
            knob_values(texts, self.algorithm, [f.name for f in fields(self)])  # it may be there, typed wrongly
            raise AmbientSolveError("No scan was given: ambient-solve mri FILE ... [--prior PRIOR].")
        if self.method not in METHODS:
            raise AmbientSolveError(f"There is no method {self.method!r}. {suggestion(self.method, METHODS)}")
        if self.samples < 1 or not 0 <= self.coils <= MAX_COILS:
            raise AmbientSolveError(
                f"--samples {self.samples} --coils {self.coils}: at least 1, and 0 to {MAX_COILS} were expected."
            )
        if not 0 <= self.sigma < float("inf"):
            raise AmbientSolveError(
                f"--sigma {self.sigma:g} was given; a noise level above 0 was expected, or 0 to estimate it."
            )
        if self.acceleration and not 1 <= self.acceleration <= MAX_ACCELERATION:
            raise AmbientSolveError(
                f"--acceleration {self.acceleration:g} was given; 1 to {MAX_ACCELERATION} was expected, or 0 for none."
            )
        check_folder(self.out)
        check_packages(self.method)
        from ambient_solve.algorithms.auto import for_scans
        from ambient_solve.mri.problem import NOTICE
        from ambient_solve.mri.reconstruction import load_mri_prior
        from ambient_solve.solver import Solver

        options = knob_values(texts, self.algorithm, [f.name for f in fields(self)])
        prior = load_mri_prior(self.prior, choose_device(self.device)) if self.method == "prior" else None
        if prior is not None:
            Solver(prior, for_scans(self.algorithm), **options)
        bad = sum(self._scan(name, prior, options) for name in self.scans)
        print(NOTICE)
        return 2 if bad else 0

    def _scan(self, name: str, prior: Prior | None, options: dict[str, Any]) -> int:
        """All slices of one scan; returns how many failed."""
        from ambient_solve.mri.scan import read_scan

        try:
            scan = read_scan(name, axes=self.axes, mask=self.mask, noise=self.noise, seed=self.seed)
            wrong = [i for i in self.slices if not 0 <= i < len(scan)]
            if wrong:
                raise AmbientSolveError(f"{name} has the slices 0 to {len(scan) - 1}; --slices {wrong[0]} is none.")
        except AmbientSolveError as error:
            print(error, file=sys.stderr)
            return 1
        for note in scan.notes:
            print(f"{shown(name)}: {shown(note)}")
        folder, bad = self.out / Path(name.replace(":", "-")).name.split(".")[0], 0
        chosen = self.slices or range(len(scan))
        for i in chosen:
            try:
                self._slice(scan.slice(i), folder / f"slice-{i:03d}", prior, options)
            except AmbientSolveError as error:
                bad += 1
                print(f"{shown(name)}, slice {i}: {error}", file=sys.stderr)
        self._volumes(folder, chosen, scan)
        return bad

    def _slice(self, scan: Scan, folder: Path, prior: Prior | None, options: dict[str, Any]) -> None:
        """One slice, unless the same request has finished it."""
        from ambient_solve.mri.problem import problem
        from ambient_solve.mri.reconstruction import classical, reconstruct, retrospective
        from ambient_solve.mri.report import save_slice

        data = [scan.kspace, scan.mask, *([] if scan.noise is None else [scan.noise])]
        data += [p.detach().cpu() for p in prior.state_dict().values()] if prior is not None else []
        asked = {f.name: getattr(self, f.name) for f in fields(self)}
        left_out = ("scans", "slices", "out", "device")
        request = {
            **{k: v for k, v in asked.items() if k not in left_out},
            **options,
            "data": digest(*(tensor.numpy().tobytes() for tensor in data)),
        }
        if (record := finished(folder, request)) is not None:
            print(f"{shown(folder)}: finished before")
            _doubt(folder, record.get("doubts", ()))
            return
        if self.acceleration > 1:
            scan = retrospective(scan, self.kind, self.acceleration, self.acs, self.seed)
        p = problem(scan, self.coils, sigma=self.sigma or None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DoubtfulResult)  # said below, once and without a line of code
            if prior is None:
                made = classical(p, self.method)
            else:
                given = {"algorithm": self.algorithm, "options": options, "n_samples": self.samples, "seed": self.seed}
                made = reconstruct(p, prior, **given, progress=None)
        made.settings["request"] = request
        save_slice(made, folder)
        compared = "".join(f", {k.upper()} {v:.3f}" for k, v in made.metrics.items())
        print(
            f"{shown(folder)}: R = {made.settings['R']:.2f}, misfit {made.chi2:.2f}{compared}, {made.seconds:.1f} s",
            flush=True,
        )
        _doubt(folder, made.doubts)

    def _volumes(self, folder: Path, chosen: Any, scan: Scan) -> None:
        """NIfTI volumes of the slices that are there, if their package is."""
        import numpy as np

        from ambient_solve.mri.report import save_nifti

        found = [folder / f"slice-{i:03d}" for i in chosen]
        found = [slice_ for slice_ in found if read_record(slice_)]
        for what in ("mean", "std"):
            volume = []
            for slice_ in found:
                with np.load(slice_ / "reconstruction.npz", allow_pickle=False) as arrays:
                    volume += [np.abs(arrays[what])] if what in arrays else []
            if volume:
                save_nifti(volume, scan.voxel, scan.simulated, folder / f"{what}.nii.gz")


def _doubt(folder: Path, doubts: Sequence[str]) -> None:
    """Say why a slice is not to be trusted."""
    for doubt in doubts:
        print(f"{shown(folder)}: {shown(doubt)}.", file=sys.stderr, flush=True)


def check_packages(method: str) -> None:
    """Raise before anything is computed where a package is missing that `method`, or the volumes written, need."""
    needed = {"nibabel": "the NIfTI volumes"}
    needed |= {"sigpy": f"the method {method}"} if method in ("l1-wavelet", "tv") else {}
    for package, what in needed.items():
        if importlib.util.find_spec(package) is None:
            raise AmbientSolveError(f"{package} was expected for {what}: pip install 'ambient-solve[mri]'.")


@dataclass(frozen=True)
class MriTrain:
    """Prepare scans, undersampled as they are, as training data, and train a prior from them.

    Each SOURCE is a folder of k-space (fastMRI or ISMRMRD .h5, BART .cfl, .npy, .npz); or of magnitudes (NIfTI, DICOM,
    pictures, an .npz pack of pictures), for which k-space is simulated. Data go to OUT/data; the command that trains is
    printed, or run. An interrupted preparation goes on where it was.
    """

    sources: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE [SOURCE ...]", help_behavior_hint="")
    ]
    """Folders of scans, or of magnitudes."""
    out: Path = Path("runs/mri")
    """Folder of the data, and of the run."""
    held_out: Annotated[tuple[str, ...], tyro.conf.arg(metavar="VOLUME ...", help_behavior_hint="")] = ()
    """Volumes that are left out, to be measured on: names of files, or labels of a pack."""
    coils_of: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """A real scan: every second simulated slice is seen by its coils, turned and moved at random."""
    axes: Annotated[str | None, tyro.conf.arg(metavar="AXES", help_behavior_hint="")] = None
    """What the axes of arrays are, such as chw or schw, where it is not plain."""
    kinds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND ...")] = ("random", "random", "uniform", "poisson")
    """Masks of simulated k-space, one of these for each slice."""
    config: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: the package's own for the target)")
    ] = None
    """Settings of the training, in YAML."""
    train: bool = False
    """Train at once, rather than print the command that does."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.data.corruption import MANIFEST, RUN
        from ambient_solve.mri.prepare import prepare

        if not self.sources:
            raise AmbientSolveError("No source was given: ambient-solve mri-train FOLDER --out runs/mri.")
        if self.config is not None and not self.config.is_file():
            raise AmbientSolveError(f"There is no {self.config}: give --config a YAML file, or leave it out.")
        check_folder(self.out)
        data = self.out / "data"
        prepared = (data / MANIFEST).is_file()
        command = self._training(_record(data / RUN) if prepared else {})
        _check_training(command)
        if prepared:
            print(f"{data} is prepared already.")
        else:
            bar = progress_bar(None, "preparing", unit="slice")
            chosen = {"held_out": self.held_out, "coils_of": self.coils_of, "axes": self.axes}
            written = prepare(self.sources, data, self._settings(), **chosen, tell=lambda _: bar.update())
            bar.close()
            print(f"{data}: {written} slices")
        command = ["launch", "-m", "ambient_solve", "train", *command]
        if not self.train:
            print(f"To train: {shlex.join(['accelerate', *command])}")
            return 0
        launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli"]  # that of this environment
        return subprocess.run([*launcher, *command], check=False).returncode

    def _training(self, made: Mapping[str, Any]) -> list[str]:
        """The arguments of the training, which takes slices whole and their target for what it is.

        Args:
            made: What data were prepared with; empty where they are prepared now.
        """
        import yaml

        from ambient_solve.mri.prepare import TARGETS

        size, target = (made.get(name, getattr(self, name)) for name in ("size", "target"))
        masked = TARGETS.get(target) == "kspace"
        config = self.config or RECIPES / ("scans.yaml" if masked else "scans_pictures.yaml")
        command = ["--config", str(config), "--data-root", str(self.out), "--out", str(self.out)]
        try:
            settings = yaml.safe_load(config.read_text())
        except (OSError, ValueError, yaml.YAMLError):
            return command  # the training says what is wrong with it
        crop = settings.get("crop") if isinstance(settings, dict) else None
        return command if crop == size else [*command, "--crop", str(size)]

    def _settings(self) -> Preparation:
        from ambient_solve.mri.prepare import Preparation

        return Preparation(**{f.name: getattr(self, f.name) for f in fields(Preparation)})


def _record(path: Path) -> dict[str, Any]:
    """What a file of JSON holds; empty where it holds nothing of use."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _check_training(command: Sequence[str]) -> None:
    """Raise before anything is prepared where the training would refuse its settings."""
    if importlib.util.find_spec("accelerate") is None:
        return  # data may be prepared on one machine and trained on elsewhere
    from ambient_solve.training.config import check, read_config

    check(read_config(list(command)), 1)


def mri_train() -> type:
    """`MriTrain` with the knobs of the preparation."""
    from ambient_solve.cli.flags import with_knobs
    from ambient_solve.knobs import knobs
    from ambient_solve.mri.prepare import Preparation

    return with_knobs(MriTrain, knobs(Preparation))
