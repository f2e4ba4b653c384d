"""A board: rows that cannot be changed, ranks and differences seed by seed, a page of one file that loads nothing."""

from __future__ import annotations

import json
import re

import pytest

from ambient_solve.errors import AmbientSolveError
from ambient_solve.testbed.board import COLUMNS, ranked, read_board, submit_entry, tables, write_board
from ambient_solve.testbed.intervals import paired_interval

TRAIN = {"domain": "faces", "scale": "xs", "track": "select", "recipe": "r", "parents": {"pool": "p", "entry": "e"}}


def summary(headline):
    restoration = {"denoise": {"psnr_mean": 20.0, "V/B": 1.0}}
    numbers = {"headline": headline, "low": headline - 1, "high": headline + 1, "frechet": 1.0, "copies": 0.0}
    return {**numbers, "copies held out": 0.0, "restoration": restoration}


def submit(board, name, values, **changed):
    train = {**TRAIN, "hash": f"train-{name}", **changed}
    seeds = {str(i): {"headline": v} for i, v in enumerate(values)}
    score = {"parents": {"train": f"train-{name}"}, "hash": f"score-{name}", "seeds": seeds}
    return submit_entry(board, name, "<b>someone</b>", train, {**score, "summary": summary(sum(values) / len(values))})


@pytest.fixture
def board(tmp_path):
    submit(tmp_path, "everything-as-clean", [20.0, 21.0, 22.0])
    submit(tmp_path, "better", [20.52, 21.5, 22.48])
    submit(tmp_path, "unsure", [19.0, 21.5, 22.6])
    return tmp_path


def test_rows_are_ranked_and_paired_with_the_reference(board):
    rows = ranked(read_board(board))
    assert [r["name"] for r in rows] == ["better", "unsure", "everything-as-clean"]
    assert [r["real"] for r in rows] == [True, False, False] and rows[2]["difference"] is None
    assert rows[0]["difference"] == pytest.approx(paired_interval([20.52, 21.5, 22.48], [20.0, 21.0, 22.0], 2))
    rows = ranked(read_board(board), "better")
    assert rows[0]["difference"] is None and rows[2]["difference"][0] == pytest.approx(-0.5)
    with pytest.raises(AmbientSolveError, match="no entry 'best'"):
        ranked(read_board(board), "best")


def test_other_seeds_are_not_paired(board):
    submit(board, "short", [20.0, 21.0])
    with pytest.raises(AmbientSolveError, match="short has other seeds"):
        ranked(read_board(board))


def test_another_pool_is_another_table(board):
    submit(board, "better", [30.0, 31.0], parents={"pool": "other", "entry": "e"})
    found = tables(read_board(board))
    assert [len(cells) for _, cells in found.values()] == [1, 3]
    assert all(tuple(head[: len(COLUMNS)]) == COLUMNS for head, _ in found.values())


def test_a_name_is_taken_once_and_plain(board):
    again = submit(board, "better", [20.52, 21.5, 22.48])
    assert again in read_board(board) and len(read_board(board)) == 3, "the same entry once more changes nothing"
    with pytest.raises(AmbientSolveError, match="already"):
        submit_entry(
            board,
            "better",
            "",
            {**TRAIN, "hash": "t"},
            {"parents": {"train": "t"}, "hash": "s", "seeds": {}, "summary": {}},
        )
    for name in ("", "../x", "a b", "<b>", "x" * 61, ".hidden"):
        with pytest.raises(AmbientSolveError, match="letters, digits"):
            submit(board, name, [1.0, 2.0])


def test_a_score_of_another_training_is_refused(tmp_path):
    with pytest.raises(AmbientSolveError, match="not that of this training"):
        submit_entry(tmp_path, "a", "", {**TRAIN, "hash": "t"}, {"parents": {"train": "u"}, "hash": "s"})


def test_a_row_that_was_changed_is_found(board):
    path = board / "board.jsonl"
    lines = path.read_text().splitlines()
    row = json.loads(lines[1])
    row["summary"]["headline"] = 99.0
    path.write_text("\n".join([lines[0], json.dumps(row), lines[2]]) + "\n")
    with pytest.raises(AmbientSolveError, match="line 2: no row of a board, or one that was changed"):
        read_board(board)


def test_the_page_is_one_file_and_takes_no_words_for_commands(board):
    row = read_board(board)[1]
    (board / "sheets").mkdir()
    (board / "sheets" / f"better-{row['hash'][:8]}.png").write_bytes(b"\x89PNG")
    table, page = write_board(board)
    text = page.read_text()
    assert "<b>someone" not in text and "&lt;b&gt;someone" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text) and "http" not in text.replace("http-equiv", "")
    assert "data:image/png;base64,iVBORw==" in text
    assert text.count("<th>") == len(COLUMNS) + 2 and "aria-sort" in text
    assert table.read_text().count("\n| better") == 1
    with pytest.raises(AmbientSolveError, match="has no entry"):
        write_board(board / "sheets")
