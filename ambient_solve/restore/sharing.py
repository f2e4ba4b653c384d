"""Pictures, and the samples of a picture, dealt out to processes that need not talk to each other.

Samples are drawn in groups whose size follows from the picture and the kind of device alone. Whoever draws a group gets
the same numbers, so that the result depends neither on how many processes there are nor on which of them was stopped
and started again. Groups of a picture lie beside its results until the last one is there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ambient_solve.results import Restoration

PART = ".unfinished"
"""Folder of the groups of a picture that is not finished."""
PIXELS = {"cpu": 2**18, "cuda": 2**21}
"""Of the samples of a group together: what a device draws in hardly less time for each if it is given more."""


@dataclass(frozen=True)
class Share:
    """What one of `world` processes draws of picture number `number` in a list of `pictures`: every group, by default.

    Whole pictures are dealt out while there are as many left as processes, the groups of the others one by one.
    """

    number: int = 0
    pictures: int = 1
    rank: int = 0
    world: int = 1

    def takes(self, group: int) -> bool:
        """Whether the group is of this process; of all processes, one says yes."""
        left = self.pictures % self.world
        first = self.pictures - left
        if self.number < first:
            return self.number % self.world == self.rank
        return (self.number - first + group * left) % self.world == self.rank

    @property
    def empty(self) -> bool:
        """Whether the picture is another process's, whatever its groups."""
        return self.number < self.pictures - self.pictures % self.world and not self.takes(0)


def groups(n_samples: int, pixels: int, device: str, together: bool = False) -> list[range]:
    """The samples of one picture in groups, each of which a process draws at once.

    Args:
        n_samples: Samples, 0 or more.
        pixels: Pixels of the picture.
        device: Type of the device, such as "cpu" or "cuda".
        together: Whether the algorithm must draw all samples together: then there is one group.

    Returns:
        Ranges of sample numbers, in order; one empty range where there are no samples.
    """
    most = n_samples if together else PIXELS.get(device, PIXELS["cuda"]) // pixels
    size = max(1, most)
    return [range(first, min(first + size, n_samples)) for first in range(0, max(n_samples, 1), size)]


class Parts:
    """Groups of the samples of one picture that were drawn for `request`, in the folder of its results."""

    def __init__(self, folder: Path, request: dict[str, Any]) -> None:
        self.folder, self.request = folder / PART, json.dumps(request)

    def read(self, group: int) -> Restoration | None:
        """The group, or None where it is not there, or was drawn for another request."""
        from safetensors import SafetensorError, safe_open

        from ambient_solve.results import Restoration
        from ambient_solve.verdict.evidence import from_record

        try:
            with safe_open(self.folder / f"{group}.safetensors", "pt") as file:
                written = file.metadata()
                if written["request"] != self.request:
                    return None
                tensors = {name: file.get_tensor(name) for name in ("samples", "chi2")}
                record = json.loads(written["record"])
                record["evidence"] = record["evidence"] and from_record(record["evidence"])
        except (SafetensorError, OSError, KeyError, TypeError):
            return None
        return Restoration(**tensors, **record)

    def write(self, group: int, part: Restoration) -> Restoration:
        """Store one group, whole or not at all.

        Args:
            group: Its number.
            part: Its samples.

        Returns:
            The part on the CPU, as `read` returns it.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        record = {name: getattr(part, name) for name in ("network_calls", "vjps", "seconds", "settings")}
        record["evidence"] = None if part.evidence is None else part.evidence.record()
        metadata = {"request": self.request, "record": json.dumps(record, default=str)}
        self.folder.mkdir(parents=True, exist_ok=True)
        part = replace(part, samples=part.samples.contiguous().cpu(), chi2=part.chi2.contiguous().cpu())
        path = self.folder / f"{group}.safetensors"
        written = path.with_suffix(f".{os.getpid()}")
        try:
            save_file({"samples": part.samples, "chi2": part.chi2}, written, metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from None
        os.replace(written, path)
        return part

    def finish(self, count: int, done: Callable[[], bool], save: Callable[[list[Restoration]], None]) -> bool:
        """Save the result once all groups are there. Of the processes that draw the last groups together, one saves.

        Args:
            count: Number of groups.
            done: Says whether the result has been saved already.
            save: Saves it, given all groups in order.

        Returns:
            Whether the result is there now.
        """
        from filelock import FileLock

        lock = self.folder.with_name(f"{PART}.lock")  # not inside of what is removed while it is held
        with FileLock(lock):
            if not done():
                parts = [self.read(group) for group in range(count)]
                if any(part is None for part in parts):
                    return False
                save(parts)
        shutil.rmtree(self.folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        return True
