"""The benchmark of several damages: its rows, what is kept of an interrupted run, and what its table counts."""

from __future__ import annotations

import json

import pytest

import mixed


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(mixed, "SIDE", 64)


def test_a_case_is_measured_once_and_all_methods_are_in_its_rows(small, tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--cases", "1", "--preset", "fast", "--samples", "1"]
    mixed.main(arguments)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    found = {row["method"]: row["psnr"] for row in rows}
    assert {"damaged", "non-local means", "tv", "auto", "stated"} <= set(found)
    assert found["stated"] > found["damaged"] + 1, "it restores"
    first = capsys.readouterr().out
    mixed.main(arguments)
    assert capsys.readouterr().out == first[first.index("| damage") :], "nothing is measured twice"
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(rows)


def test_the_table_counts_where_auto_is_near_and_where_it_is_ahead():
    def row(case, method, psnr):
        return {"case": case, "method": method, "psnr": psnr}

    rows = [row(0, "tv", 20.0), row(0, "auto", 25.0), row(0, "stated", 25.9)]
    rows += [row(1, "tv", 26.0), row(1, "auto", 25.0), row(1, "stated", 26.1)]
    assert mixed.table(rows).endswith("in 1 of 2, and above every classical method in 1.")
