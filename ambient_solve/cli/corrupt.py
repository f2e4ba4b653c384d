"""`ambient-solve corrupt`: a data set damaged once, for training."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from ambient_solve.cli.damage_sheet import DamageSheet
from ambient_solve.cli.flags import damage_help, read_damages, with_knobs
from ambient_solve.errors import AmbientSolveError, shown
from ambient_solve.knobs import knobs
from ambient_solve.progress import progress_bar
from ambient_solve.saving import check_folder


@dataclasses.dataclass(frozen=True)
class Corrupt:
    """Damage a data set once, for training, and write a manifest of it. An interrupted command goes on where it was."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE", help_behavior_hint="")]
    """Folder of pictures, .npz pack, webdataset:PATH, dataset:PATH or imagefolder:PATH."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT", help_behavior_hint="")]
    """Folder for the damaged pictures; must not hold a finished damaged data set."""
    damage: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(metavar='"KIND KNOB=VALUE ..."', help_behavior_hint="(may be repeated, default: noise)"),
    ] = ()
    """What happens to the pictures that do not stay clean, such as "jpeg quality=25 share=2"."""
    sigma: Annotated[
        float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint='(short for --damage "noise sigma_01=FLOAT")')
    ] = None
    """Noise level of the damaged pictures, where pixel values go from 0 to 1: 0.1 is much."""
    sigma_noise: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(twice --sigma)")] = None
    """The former name and unit of --sigma: in units of [-1, 1] pictures."""
    shrink: int = 1
    """Divide both sides first, which makes the pixels of a JPEG clean again."""
    follow_outside: bool = False
    """Read pictures that dataset:PATH or imagefolder:PATH names outside of PATH; only if you trust it."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.data.contrast import Contrast
        from ambient_solve.data.corruption import MANIFEST, Corruption, write_corrupted
        from ambient_solve.data.images import read_images

        if self.shrink < 1:
            raise AmbientSolveError(f"--shrink {self.shrink} was given, at least 1 was expected.")
        damages = read_damages(self.damage, self.sigma, self.sigma_noise)
        corruption = Corruption(**{k.name: getattr(self, k.name) for k in knobs(Corruption)}, damages=damages)
        check_folder(self.out)
        if (Path(self.source) / MANIFEST).is_file():
            raise AmbientSolveError(f"{self.source} is a damaged data set already: give the folder of the pictures.")
        # Read once before anything is written: what cannot work then leaves no half-made data set behind.
        how, contrast = {"shrink": self.shrink, "follow_outside": self.follow_outside}, Contrast()
        first = read_images(self.source, tell=partial(print, file=sys.stderr), **how)
        for _, picture in progress_bar(first, "reading"):
            contrast.add(picture)
        total = contrast.pictures
        if warning := contrast.about(self.source):
            print(warning, file=sys.stderr)
        sheet = DamageSheet(corruption, total)
        again = sheet.watch(read_images(self.source, tell=lambda words: None, **how))
        pictures = progress_bar(again, "damaging", total=total)
        write_corrupted(pictures, total, corruption, self.out, os.path.normpath(self.source), {"shrink": self.shrink})
        counts = sorted(Counter(damage.name if damage else "clean" for damage in corruption.plan(total)).items())
        print(f"{shown(self.out)}: {total} pictures, {', '.join(f'{n} {name}' for name, n in counts)}")
        if drawn := sheet.save(self.out):
            print(f"{shown(drawn)}: some before and after (delete it before you share the folder)")
        return 0


def corrupt_command() -> type:
    """`Corrupt` with the knobs of `Corruption`, and the kinds of damage in its help."""
    from ambient_solve.data.corruption import SHARING, Corruption

    made = with_knobs(Corrupt, knobs(Corruption))
    made.__doc__ = f"{Corrupt.__doc__}\n\n{SHARING}\n\n{damage_help()}"
    return made
