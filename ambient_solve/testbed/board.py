"""The board: a row for each submitted entry, as JSONL, as a table in Markdown and as a page of one file.

Entries of one pool and one recipe stand in one table, and are compared with a reference seed by seed; intervals of
differences allow for all entries of the table being looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ambient_solve.errors import AmbientSolveError
from ambient_solve.reading.limits import parse_json
from ambient_solve.saving import replace_text
from ambient_solve.testbed.intervals import paired_interval
from ambient_solve.testbed.record import content_hash

ROWS = "board.jsonl"
"""File of the submitted entries."""
SHEETS = "sheets"
"""Folder of their sheets, NAME.png."""
MOST_NAME = 60
"""Letters of a name, at most."""
REFERENCE = "everything-as-clean"
"""The entry that others are compared with, where it is on the board and no other is named."""
COLUMNS = (
    "entry",
    "track",
    "author",
    "headline (dB)",
    "interval",
    "over the reference (dB)",
    "real",
    "Frechet",
    "copies",
)
"""Columns of a table, before those of the tasks."""


def submit_entry(
    board: Path, name: str, author: str, train: Mapping[str, Any], score: Mapping[str, Any]
) -> dict[str, Any]:
    """Add an entry to a board.

    Args:
        board: Folder of the board; made where it is missing.
        name: Of the entry, unlike those on the board of that pool and scale.
        author: Who entered it.
        train: Record of its training.
        score: Record of its score.

    Returns:
        The row.

    Raises:
        AmbientSolveError: the records do not belong together, or there is an entry of that name.
    """
    plain = name and len(name) <= MOST_NAME and all(c.isalnum() or c in "-_." for c in name) and name[0] not in ".-"
    if not plain:
        raise AmbientSolveError(
            f"name = {name!r}; letters, digits, '-', '_' and '.' were expected, at most {MOST_NAME}."
        )
    if score["parents"].get("train") != train["hash"]:
        raise AmbientSolveError("The score is not that of this training: score the run again.")
    row = {
        "name": name,
        "author": author,
        **{k: train[k] for k in ("domain", "scale", "track", "recipe")},
        "pool": train["parents"]["pool"],
        "entry": train["parents"]["entry"],
        "score": score["hash"],
        "seeds": {k: v["headline"] for k, v in score["seeds"].items()},
        "summary": score["summary"],
    }
    for other in read_board(board):
        if [other[k] for k in ("pool", "recipe")] == [row["pool"], row["recipe"]]:
            if other["score"] == row["score"] and other["name"] == name:
                return other
            if other["name"] == name:
                raise AmbientSolveError(f"There is an entry {name} on {board} already: choose another --name.")
    row["hash"] = content_hash(row)
    board.mkdir(parents=True, exist_ok=True)
    with (board / ROWS).open("a") as file:
        file.write(json.dumps(row) + "\n")
    return row


def read_board(board: Path) -> list[dict[str, Any]]:
    """The rows of a board; one that was changed is a sentence."""
    path, rows = board / ROWS, []
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else [], 1):
        row = parse_json(line, f"{path}, line {number}")
        stated = row.pop("hash", None) if isinstance(row, dict) else None
        if stated is None or stated != content_hash(row):
            raise AmbientSolveError(f"{path}, line {number}: no row of a board, or one that was changed.")
        rows.append({**row, "hash": stated})
    return rows


def ranked(rows: Sequence[Mapping[str, Any]], against: str = "") -> list[dict[str, Any]]:
    """The rows of one pool and recipe, the best first, each compared with the reference.

    Args:
        rows: They share their seeds.
        against: Name of the reference; "" takes `REFERENCE`, or the last of the ranking.

    Returns:
        Rows with `difference` (mean, low, high), None of the reference, and whether it is `real`.

    Raises:
        AmbientSolveError: there is no such reference.
    """
    order = sorted(rows, key=lambda row: -row["summary"]["headline"])
    names = [row["name"] for row in order]
    wanted = against or (REFERENCE if REFERENCE in names else names[-1])
    if wanted not in names:
        raise AmbientSolveError(f"There is no entry {wanted!r} to compare with; there are {', '.join(names)}.")
    reference = order[names.index(wanted)]
    found = []
    for row in order:
        seeds = sorted(reference["seeds"], key=int)
        if set(row["seeds"]) != set(seeds):
            raise AmbientSolveError(f"{row['name']} has other seeds than {wanted}: they cannot be paired.")
        difference = None
        if row is not reference:
            ours, theirs = ([r["seeds"][k] for k in seeds] for r in (row, reference))
            difference = paired_interval(ours, theirs, max(len(order) - 1, 1))
        real = difference is not None and (difference[1] > 0 or difference[2] < 0)
        found.append({**row, "difference": difference, "real": real})
    return found


def tables(rows: Sequence[Mapping[str, Any]], against: str = "") -> dict[str, tuple[list[str], list[list[str]]]]:
    """The tables of a board in words, by their titles: head and cells.

    Args:
        rows: Of the board.
        against: As for `ranked`; where a table lacks it, its own default stands in.

    Returns:
        Head and cells of each.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["domain"], row["scale"], row["pool"], row["recipe"]), []).append(row)
    found = {}
    for (domain, scale, pool, _), group in sorted(groups.items(), key=lambda item: item[0]):
        known = against if any(r["name"] == against for r in group) else ""
        own = ranked(group, known)
        tasks = list(own[0]["summary"]["restoration"])
        head = [*COLUMNS, *(f"{task} PSNR" for task in tasks), *(f"{task} V/B" for task in tasks)]
        cells = []
        for row in own:
            s, d = row["summary"], row["difference"]
            cell = [
                row["name"],
                row["track"],
                row["author"],
                f"{s['headline']:.3f}",
                f"{s['low']:.3f} to {s['high']:.3f}",
            ]
            cell += [
                f"{d[0]:+.3f} ({d[1]:+.3f} to {d[2]:+.3f})" if d else "",
                ("yes" if row["real"] else "no") if d else "",
            ]
            cell += [f"{s['frechet']:.3f}", f"{s['copies']:.3f} ({s['copies held out']:.3f})"]
            cell += [f"{s['restoration'][task][k]:.2f}" for k in ("psnr_mean", "V/B") for task in tasks]
            cells.append(cell)
        found[f"{domain}, scale {scale}, pool {pool[:8]}, {len(own[0]['seeds'])} seeds"] = head, cells
    return found


LEGEND = (
    "The headline is the mean PSNR of denoising held-out pictures over five noise levels; intervals are of 95 % over "
    "the seeds. Differences are paired by seed, their intervals allow for all entries of a table (Bonferroni), and are "
    "real where 0 lies outside. Copies are samples near a picture of the entry; in brackets, held-out pictures "
    "that are."
)
"""What stands below the tables."""


def write_board(board: Path, against: str = "") -> list[Path]:
    """Write board.md and board.html from the rows of a board.

    Args:
        board: Folder of the board.
        against: As for `tables`.

    Returns:
        Both files.

    Raises:
        AmbientSolveError: nothing was submitted, or a row was changed.
    """
    from ambient_solve.testbed.page import board_page

    rows = read_board(board)
    if not rows:
        raise AmbientSolveError(f"{board} has no entry: add one with `ambient-solve testbed submit`.")
    found = tables(rows, against)
    replace_text(
        board / "board.md",
        "\n\n".join(f"## {t}\n\n{markdown(*cells)}" for t, cells in found.items()) + f"\n\n{LEGEND}\n",
    )
    sheets = {r["name"]: p.read_bytes() for r in rows if (p := board / SHEETS / f"{sheet_name(r)}.png").is_file()}
    replace_text(board / "board.html", board_page(found, sheets, LEGEND))
    return [board / "board.md", board / "board.html"]


def sheet_name(row: Mapping[str, Any]) -> str:
    """Name of the sheet of a row, without its suffix: entries of several tables may share theirs."""
    return f"{row['name']}-{row['hash'][:8]}"


def markdown(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table in Markdown.

    Args:
        head: Words of the head.
        cells: Words of each row.

    Returns:
        The table.
    """
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(
        "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in line) + " |" for line in lines
    )
