"""The tables of an evaluation, as Markdown, CSV and a page."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambient_solve.errors import AmbientSolveError

if TYPE_CHECKING:
    from ambient_solve.evaluate.trials import Trial


HEADINGS = {
    "psnr_mean": ("PSNR of the mean", 2),
    "psnr_sample": ("of a sample", 2),
    "ssim_mean": ("SSIM of the mean", 3),
    "ssim_sample": ("of a sample", 3),
    "lpips_mean": ("LPIPS of the mean", 3),
    "lpips_sample": ("of a sample", 3),
    "chi2": ("misfit", 2),
    "V/B": ("V/B", 2),
    "coverage": ("coverage of 90 %", 3),
    "seconds": ("seconds", 1),
    "network_calls": ("network calls", 0),
    "vjps": ("VJPs", 0),
}
"""Heading and decimals of each column."""
LEGEND = (
    "Means over the pictures ± their standard error; PSNR in dB. Misfit chi2, V/B (variance of the samples over the "
    "squared error of the mean, of all pictures together) and the coverage are right at 1, 1 and 0.9. Seconds are the "
    "median for all samples of a picture; network calls and VJPs are those of one sample."
)
"""What stands below the tables."""
STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#1c1e22;max-width:110rem}
table{border-collapse:collapse;margin:1rem 0}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #dee0e4}
th{text-align:right;vertical-align:bottom}td.name,th.name{text-align:left}p,figcaption{color:#696e76}
.strip{display:flex;flex-wrap:wrap;gap:.8rem}figure{margin:0;width:128px}img{width:128px;image-rendering:pixelated}"""
"""Style sheet of table.html."""


def write_tables(
    out: Path, jobs: Sequence[Trial], lines: Sequence[Mapping[str, Any]], left_out: Sequence[str], pictures: int
) -> None:
    """Write table.csv, table.md and table.html.

    Args:
        out: Folder of the results.
        jobs: What was measured.
        lines: The averages, one for each row of the table.
        left_out: Sentences on what could not be measured.
        pictures: How many pictures table.html shows.
    """
    from ambient_solve.evaluate.benchmark import write_whole

    columns = ["task", "algorithm", "prior", "pictures", "samples"]
    columns += [c for name in HEADINGS for c in (name, f"{name}_se") if any(c in line for line in lines)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_whole(out / "table.csv", text.getvalue())
    head, cells = _cells(lines)
    first = jobs[0]
    legend = f"{pictures} pictures, seed {first.seed}. {LEGEND}"
    table = [head, ["---"] * 3 + ["---:"] * (len(head) - 3), *cells]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table)
    notes = "".join(f"\n\nLeft out: {sentence}" for sentence in left_out)
    write_whole(out / "table.md", f"{text}\n\n{legend}{notes}\n")
    write_whole(out / "table.html", _page(out, jobs, head, cells, legend, left_out))


def _cells(lines: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The table in words: a column for what any line has."""
    names = [name for name in HEADINGS if any(name in line for line in lines)]
    head = ["task", "algorithm", "prior", "samples", *(HEADINGS[name][0] for name in names)]
    cells = []
    for line in lines:
        row = [line["task"], line["algorithm"], line["prior"], str(line["samples"])]
        for name in names:
            error = (
                f" ± {line[f'{name}_se']:.{HEADINGS[name][1]}f}"
                if line["pictures"] > 1 and f"{name}_se" in line
                else ""
            )
            row.append(f"{line[name]:.{HEADINGS[name][1]}f}{error}" if name in line else "")
        cells.append(row)
    return head, cells


def _page(
    out: Path,
    jobs: Sequence[Trial],
    head: Sequence[str],
    cells: Sequence[Sequence[str]],
    legend: str,
    left_out: Sequence[str],
) -> str:
    """A page with the table and, below it, the pictures beside it in OUT/pictures."""
    from ambient_solve.evaluate.benchmark import PICTURES

    def row(kind: str, words: Sequence[str]) -> str:
        named = [f"<{kind}{' class=name' if i < 3 else ''}>{escape(w)}</{kind}>" for i, w in enumerate(words)]
        return f"<tr>{''.join(named)}</tr>"

    def figure(name: str, caption: str) -> str:
        if not (out / PICTURES / f"{name}.png").is_file():
            return ""
        image = f'<img src="{PICTURES}/{name}.png" alt="{escape(caption)}" loading="lazy">'
        return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"

    strips: dict[str, list[str]] = {}
    for job in jobs:
        if job.picture.shown:
            title = f"{job.task.label}: {job.picture.name}"
            start = [figure(f"{job.measured}-{kind}", kind) for kind in ("truth", "damaged")]
            label = f"{job.arm.label}{', ' if job.prior_label else ''}{job.prior_label}"
            own = [figure(f"{job.key}-{kind}", f"{label}: {kind}") for kind in ("mean", "std", "sample")]
            strips.setdefault(title, start).extend(own)
    shown = [f"<h2>{escape(title)}</h2><div class=strip>{''.join(all_)}</div>" for title, all_ in strips.items()]
    return "\n".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8><title>ambient-solve evaluate</title>",
            f"<style>{STYLE}</style><h1>Restorations held against the truth</h1>",
            f"<table>{row('th', head)}{''.join(row('td', words) for words in cells)}</table>",
            f"<p>{escape(legend)} In the pictures of a standard deviation (std), white is its own largest value.</p>",
            *(f"<p>Left out: {escape(sentence)}</p>" for sentence in left_out),
            *shown,
            "</html>\n",
        ]
    )


def _words(text: str, option: str, example: str) -> tuple[str, dict[str, str]]:
    """The name and the settings in a text such as "mmps steps=10"."""
    try:
        name, *rest = shlex.split(text)
        return name, dict(word.split("=", 1) for word in rest)
    except ValueError:
        raise AmbientSolveError(
            f'{option} {text!r} was given, a name and its settings were expected: {option} "{example}".'
        ) from None
