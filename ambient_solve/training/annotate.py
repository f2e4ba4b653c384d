"""Find out at which noise levels each damaged picture may be used in training, and write it to a table.

    python trainers/annotate.py --data corrupted:FOLDER --out table.jsonl
    python trainers/annotate.py --data corrupted:FOLDER --out ranks.jsonl --method classifier --against table.jsonl

Methods: `heldout` compares the loss on held-out clean pictures of training with and without each damage, `classifier`
asks up to which level each picture can be distinguished from a clean one, `crops` does so for crops of pictures of
another kind, `fixed` is given. An interrupted run resumes with the same command. A source of trainers/train.py takes
the table as `annotations: table.jsonl`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
import tyro
from torch import Tensor

from ambient_solve.data.annotators import held_out_switch, too_low, undecided
from ambient_solve.data.corruption import read_corrupted
from ambient_solve.data.loader import Levels, Loader
from ambient_solve.data.sample import Sample
from ambient_solve.data.table import Annotation, chart, read_table, write_table
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import build, check_knobs, knob, knobs, sentence
from ambient_solve.noise import Streams
from ambient_solve.objectives.base import edm_weight
from ambient_solve.objectives.denoise import Denoise, buffer
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from ambient_solve.saving import replace_text
from ambient_solve.training.classifiers import CropClassifier, NoiseClassifier
from ambient_solve.training.fitting import Annotator, Trained, by_damage, seeded


@final
@dataclass(frozen=True, kw_only=True)
class Fixed(Annotator):
    """The same levels for every damaged picture."""

    name: ClassVar[str] = "fixed"

    sigma_min: float = knob(1.0, 0.0, help="use the damaged pictures above this level; inf is never")
    sigma_max: float = knob(0.0, 0.0, help="use them below this level, too; 0 is nowhere")

    def __post_init__(self) -> None:
        check_knobs(self)

    def annotate(self, samples: Sequence[Sample], folder: Path) -> list[Annotation]:
        """See `Annotator.annotate`."""
        damaged = [i for damage, indices in by_damage(samples).items() if damage != "clean" for i in indices]
        return self.rows(samples, dict.fromkeys(damaged, (self.sigma_min, self.sigma_max, None)))


@final
@dataclass(frozen=True, kw_only=True)
class HeldOutLoss(Trained):
    """`sigma_min` of each damage: the level above which training with it does not worsen the loss on clean pictures.

    One denoiser is trained on the clean pictures alone and one more with each damage, all from the same first weights
    and with the same length; they are compared on clean pictures that none of them saw, under the same noise.
    """

    name: ClassVar[str] = "heldout"

    held_out: float = knob(0.2, 0.01, 0.9, "share of the clean pictures that the denoisers are compared on")
    draws: int = knob(4, 1, 1024, "random views of each picture at each question")
    confidence: float = knob(0.9, 0.5, 0.999, "share of the bootstrap samples that the interval of the level holds")

    def annotate(self, samples: Sequence[Sample], folder: Path) -> list[Annotation]:
        """See `Annotator.annotate`; folder/curves.json keeps the losses, with and without each damage, by level."""
        groups, side = by_damage(samples, least=4), self.side(samples)
        clean = np.random.default_rng((self.seed, 0)).permutation(groups.pop("clean"))
        kept = max(2, round(self.held_out * len(clean)))
        held_out, learned = ([samples[i] for i in part] for part in (clean[:kept], clean[kept:]))
        if not learned:
            raise AmbientSolveError(f"All {len(clean)} clean pictures are held out: lower held_out, or add clean ones.")
        losses = {"clean": self._losses(learned, held_out, side, folder / "clean")}
        for damage, own in groups.items():
            losses[damage] = self._losses(learned + [samples[i] for i in own], held_out, side, folder / damage)
        without, switches = losses.pop("clean"), {}
        for damage, loss in losses.items():
            switches[damage] = held_out_switch(self.sigmas, without, loss, self.confidence)
        curves = {damage: loss.mean(0).tolist() for damage, loss in {"clean": without, **losses}.items()}
        found = {d: {k: str(v) if v == math.inf else v for k, v in asdict(s).items()} for d, s in switches.items()}
        record = {"sigma": self.sigmas.tolist(), **curves, "switches": found}
        replace_text(folder / "curves.json", json.dumps(record, indent=1) + "\n")
        for damage, s in switches.items():
            print(
                f"{damage}: {self.confidence:.0%} of the bootstrap samples switch between {s.low:.3g} and {s.high:.3g}"
            )
        for warning in undecided(switches, len(held_out)):
            print(f"warning: {warning}", file=sys.stderr)
        return self.rows(samples, {i: (switches[d].sigma_min, 0.0, None) for d, own in groups.items() for i in own})

    def _losses(self, learned: list[Sample], held_out: list[Sample], side: int, folder: Path) -> np.ndarray:
        """Train on `learned` and return the loss of each held-out picture at each level, (n, levels)."""
        learned = [Sample(s.name, s.z, s.sigma_noise) for s in learned]  # as if it could be used everywhere
        config = NetworkConfig(
            learned[0].z.shape[0],
            widths=(self.width, 2 * self.width),
            embedding=96,
            sigma_min=self.lowest,
            sigma_max=self.highest,
        )
        prior, middle = seeded(NetworkPrior, self.seed, config), math.sqrt(self.lowest * self.highest)
        levels = Levels(math.log(middle), math.log(self.highest / self.lowest) / 4, self.lowest, self.highest)
        share = np.ones(len(learned))
        loader = Loader(learned, share, levels, crop=side, buffer=buffer(4.0), batch=self.batch, seed=self.seed)
        device = next(prior.parameters()).device

        def loss(step: int) -> Tensor:
            batch, streams = loader(step)
            return Denoise().loss(prior, batch.to(device), streams).mean()

        self.fit(prior, loss, learned, folder)
        z = torch.stack([_middle(s.z.float(), side) for s in held_out]).to(device)
        streams = Streams(range(len(z)), 1)
        total = torch.zeros(len(z), self.levels)
        with torch.no_grad():
            for n in (streams.normal(z) for _ in range(self.draws)):
                for k, sigma in enumerate(self.sigmas):
                    error = (prior.denoise(z + sigma * n, float(sigma)) - z).square().flatten(1).mean(1)
                    total[:, k] += (edm_weight(torch.tensor(sigma), config.sigma_data) * error.cpu()) / self.draws
        return total.double().numpy()


def _middle(z: Tensor, side: int) -> Tensor:
    top, left = ((n - side) // 2 for n in z.shape[-2:])
    return z[:, top : top + side, left : left + side]


METHODS = {cls.name: cls for cls in (HeldOutLoss, NoiseClassifier, CropClassifier, Fixed)}
"""The methods of annotation by name."""


@dataclass(frozen=True)
class Command:
    """What is annotated, how, and where the table goes."""

    data: str
    """corrupted:FOLDER, a damaged data set as `ambient-solve corrupt` writes it."""
    out: Path
    """The table; its chart goes beside it, and what was trained to the folder of its name with .run."""
    method: Literal["heldout", "classifier", "crops", "fixed"] = "heldout"
    """How the levels are found, as said above."""
    against: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """The table of another run, of `heldout`: warn where this one is lower."""
    follow_outside: bool = False
    """Read files that the manifest names outside of its folder; only if you trust it."""


def options() -> type:
    """`Command` with one more option for each knob, which stays None unless it is given."""
    owners: dict[str, list[str]] = {}
    defaults: dict[str, list[str]] = {}
    for name, cls in METHODS.items():
        for k in knobs(cls):
            owners.setdefault(k.name, []).append(name)
            defaults.setdefault(k.name, []).append(str(k.default))
    fields = []
    for k in {k.name: k for cls in METHODS.values() for k in knobs(cls)}.values():
        bounds = f", {k.lo:g} to {k.hi:g}" if k.lo is not None and k.hi is not None else ""
        default = " or ".join(dict.fromkeys(defaults[k.name]))
        hint = f"({', '.join(owners[k.name])}{bounds}, default: {default})"
        metavar = {"epsilon": "auto|FLOAT", "sizes": "INT [INT ...]"}.get(k.name) or k.type.__name__.upper()
        argument = tyro.conf.arg(help=sentence(k.help), metavar=metavar, help_behavior_hint=hint)
        fields.append((k.name, Annotated[k.type | None, argument], None))
    return make_dataclass("Options", fields, bases=(Command,), frozen=True)


def annotate(command: Command, given: dict[str, Any]) -> list[Annotation]:
    """Write a table of annotations, and its chart.

    Args:
        command: What was typed.
        given: Knobs of its method.

    Returns:
        The annotations.

    Raises:
        AmbientSolveError: the data, the output or a knob does not fit.
    """
    annotator: Annotator = build(METHODS[command.method], **given)
    kind, _, folder = command.data.rpartition(":")
    if kind != "corrupted":
        raise AmbientSolveError(
            f"--data {command.data} was given, corrupted:FOLDER was expected: damage is stored first."
        )
    if command.out.suffix != ".jsonl" or command.out.is_dir():
        raise AmbientSolveError(f"--out {command.out} was given, a file NAME.jsonl was expected: the table.")
    other = read_table(command.against) if command.against else []
    samples = list(read_corrupted(folder, follow_outside=command.follow_outside))
    rows = annotator.annotate(samples, command.out.with_suffix(".run"))
    write_table(rows, command.out)
    chart(rows).save(command.out.with_suffix(".png"))
    for damage in sorted({row.damage for row in rows}):
        own = [row for row in rows if row.damage == damage]
        low, high = (float(np.median([getattr(row, k) for row in own])) for k in ("sigma_min", "sigma_max"))
        below = f" or below {high:.3g}" if high else ""
        print(f"{damage}: {len(own)} pictures, used above sigma = {low:.3g}{below} (median)")
    for warning in too_low(rows, other):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"The table is {command.out}.")
    return rows
