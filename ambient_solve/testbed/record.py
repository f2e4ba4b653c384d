"""The JSON record of an artifact: what it is, the hashes of its parents, and its own hash over all of it.

Whoever can change a record can hash it again. The chain shows that artifacts belong together, and what was changed by
mistake; a board that must trust nobody trains again from the pool and the entry, which gives the same numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ambient_solve.errors import AmbientSolveError
from ambient_solve.reading.limits import read_json
from ambient_solve.saving import replace_text

LETTERS = 32
"""Hexadecimal digits of a hash: 128 bits."""


def hash_of(*parts: bytes) -> str:
    """The hash of `parts`, each of which counts by itself."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:LETTERS]


def content_hash(value: Any) -> str:
    """The hash of what JSON holds of a value; it does not depend on the order of keys."""
    return hash_of(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def write_record(path: Path, kind: str, content: Mapping[str, Any], parents: Mapping[str, str]) -> dict[str, Any]:
    """Write the record of an artifact, whole or not at all.

    Args:
        path: The file.
        kind: What the artifact is: pool, entry, train or score.
        content: All that is to be said of it, as JSON holds it.
        parents: Hashes of what it was made from, by their kinds.

    Returns:
        The record, with its `hash`.
    """
    record = json.loads(json.dumps({"kind": kind, **content, "parents": dict(parents)}))
    record["hash"] = content_hash(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(record, indent=1) + "\n")
    return record


def read_record(path: Path, kind: str) -> dict[str, Any]:
    """Read what `write_record` wrote.

    Args:
        path: The file.
        kind: What the artifact must be.

    Returns:
        The record.

    Raises:
        AmbientSolveError: there is none, it is of another kind, or it was changed.
    """
    if not path.is_file():
        raise AmbientSolveError(f"There is no {path}: make it with `ambient-solve testbed {kind}`.")
    record = read_json(path)
    if not isinstance(record, dict) or record.get("kind") != kind:
        raise AmbientSolveError(f"{path} is no record of a {kind} of the testbed.")
    stated = record.pop("hash", None)
    if stated != content_hash(record):
        raise AmbientSolveError(f"{path} was changed since it was written: its hash no longer fits what it says.")
    return {**record, "hash": stated}
