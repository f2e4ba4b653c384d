"""The data of an entry as the trainer reads them: a damaged data set for each stage, in the folder of the run."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from ambient_solve.data.corruption import MANIFEST, fingerprint
from ambient_solve.errors import AmbientSolveError
from ambient_solve.saving import replace_text, save_tensors
from ambient_solve.testbed.entry import NUMBERS, Entry, read_entry, write_entry
from ambient_solve.testbed.pool import Pool
from ambient_solve.testbed.record import read_record, write_record

RECORD = "entry.json"
"""File of the record of the entry, written last."""
TABLE = "entry.jsonl"
"""File of its table."""


def stage_folders(entry: Entry) -> list[str]:
    """The folders of its stages, below that of the run."""
    return [f"data/stage-{stage}" for stage in range(entry.stages)]


def write_data(entry: Entry, pool: Pool, run: Path) -> dict[str, Any]:
    """Write the data of an entry into the folder of its run; the same entry finds them there.

    Args:
        entry: The entry.
        pool: Its pool.
        run: Folder of the run.

    Returns:
        The record of the entry.

    Raises:
        AmbientSolveError: the folder holds another entry.
    """
    if (run / RECORD).is_file():
        record = read_record(run / RECORD, "entry")
        if record["entry"] != entry.hash or record["parents"]["pool"] != pool.record["hash"]:
            raise AmbientSolveError(f"{run} holds the run of another entry: choose another --out, or delete it.")
        return record
    for stage, name in enumerate(stage_folders(entry)):
        folder = run / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        rows = []
        for sample in entry.samples(pool, stage):
            save_tensors({"z": sample.z.contiguous()}, folder / f"{sample.name}.safetensors")
            levels = {k: "inf" if (v := getattr(sample, k)) == math.inf else v for k in NUMBERS}
            rows.append({"file": f"{sample.name}.safetensors", "name": sample.name, **levels, "damage": sample.damage})
        replace_text(folder / MANIFEST, "".join(json.dumps(row) + "\n" for row in rows))
    write_entry(run / TABLE, entry.rows)
    content = {"entry": entry.hash, "track": entry.track, "rows": len(entry.rows), "stages": entry.stages}
    return write_record(run / RECORD, "entry", content, {"pool": pool.record["hash"]})


def entry_of_run(run: Path, pool: Pool) -> Entry:
    """The entry of a run, read and checked again.

    Args:
        run: Folder of the run.
        pool: Its pool.

    Returns:
        The entry.

    Raises:
        AmbientSolveError: it is not valid, or not the one that was entered.
    """
    record = read_record(run / RECORD, "entry")
    if record["parents"]["pool"] != pool.record["hash"]:
        raise AmbientSolveError(f"{run} was entered for another pool: give that one.")
    place = run / "data" / "stage-0" if record["track"] == "bring" else run / TABLE
    entry = read_entry(place, pool, record["track"])
    if entry.hash != record["entry"]:
        raise AmbientSolveError(f"{place} was changed after it was entered.")
    return entry


def data_hashes(entry: Entry, pool: Pool) -> list[str]:
    """The hash of what each stage trains on, as the trainer writes it to data.json.

    Args:
        entry: The entry.
        pool: Its pool.

    Returns:
        Hashes, one for each stage.
    """
    found = []
    for stage in range(entry.stages):
        samples = entry.samples(pool, stage)
        found.append(fingerprint(samples[: len(samples) - (entry.validating if stage == 0 else 0)]))
    return found
