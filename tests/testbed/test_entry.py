"""Entries: what is allowed is read, and each way to cheat or to err is one sentence."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import pytest
import torch

from ambient_solve.data.damages import JpegBlocks
from ambient_solve.errors import AmbientSolveError
from ambient_solve.saving import save_png
from ambient_solve.testbed.domains import gather_pictures
from ambient_solve.testbed.entry import STAGES, Choice, read_entry, refuse_test_pictures
from ambient_solve.testbed.pool import read_truth
from ambient_solve.testbed.prepare import data_hashes, entry_of_run, write_data
from pools import small_pool, table

pytest.importorskip("imagehash", reason="near-copies need imagehash: pip install 'ambient-solve[train]'")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return small_pool(tmp_path_factory.mktemp("pool") / "pool")


@pytest.fixture
def ids(pool):
    return [s.name for s in pool.samples]


def text(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_subset_is_read(pool, ids, tmp_path):
    entry = read_entry(text(tmp_path / "a.jsonl", *({"id": i} for i in ids[:5])), pool, "select")
    assert [s.name for s in entry.samples(pool, 0)] == ids[:5]
    assert all(s.weight == 1 and s.sigma_noise == s.sigma_min == s.sigma_max == 0 for s in entry.samples(pool, 0))


def test_the_order_of_the_rows_decides_nothing(pool, ids, tmp_path):
    first = read_entry(table(tmp_path / "a.jsonl", *map(Choice, ids)), pool, "select")
    second = read_entry(table(tmp_path / "b.jsonl", *map(Choice, reversed(ids))), pool, "select")
    assert first.hash == second.hash and data_hashes(first, pool) == data_hashes(second, pool)
    other = read_entry(table(tmp_path / "c.jsonl", Choice(ids[0], 2.0), *map(Choice, ids[1:])), pool, "select")
    assert other.hash != first.hash and data_hashes(other, pool) != data_hashes(first, pool)


def test_levels_and_weights_reach_the_samples(pool, ids, tmp_path):
    rows = [Choice(ids[0], 2.5, 0.2, 0.4, 0.0), Choice(ids[1], 1.0, 0.0, math.inf, 0.1), *map(Choice, ids[2:])]
    entry = read_entry(table(tmp_path / "a.jsonl", *rows), pool, "annotate")
    a, b = entry.samples(pool, 0)[:2]
    assert (a.weight, a.sigma_noise, a.sigma_min, a.sigma_max) == (2.5, 0.2, 0.4, 0.0)
    assert (b.weight, b.sigma_noise, b.sigma_min, b.sigma_max) == (1.0, 0.0, math.inf, 0.1)


REFUSED = {
    "an id that is not in the pool": ([{"id": "0" * 32}], "1 ids of .* are not in the pool"),
    "a weight that is no number": ([{"id": 0, "weight": math.nan}], "weight = nan is no number of 0 or more"),
    "a level that is no number": ([{"id": 0, "sigma_min": math.nan}], "sigma_min = nan is no number"),
    "an endless weight": ([{"id": 0, "weight": math.inf}], "weight = inf is no number"),
    "a negative weight": ([{"id": 0, "weight": -1}], "weight = -1 is no number"),
    "a weight in words": ([{"id": 0, "weight": "much"}], "weight = 'much' is no number"),
    "a weight that is true": ([{"id": 0, "weight": True}], "weight = True is no number"),
    "a row without an id": ([{"weight": 1}], "expected an object with an id"),
    "a word that is unknown": ([{"id": 0, "wieght": 1}], "'wieght' is unknown. Did you mean 'weight'"),
    "a row twice": ([{"id": 0}, {"id": 0}], "has several rows"),
    "weights that cover nothing": ([{"id": 0, "weight": 0}, {"id": 1, "weight": 0}], "No picture is used"),
    "levels in select": ([{"id": 0, "sigma_noise": 0.1}], "the track select does not take"),
    "a stage that is missing": ([{"id": 0}, {"id": 1, "stage": 2}], "The stages are .0, 2."),
    "a stage too many": ([{"id": 0}, {"id": 1, "stage": STAGES}], f"expected 0 to {STAGES - 1}"),
    "stages that nothing ends": ([{"id": 0}, {"id": 1, "stage": 1}], "Several stages need pictures with held_out"),
    "held out for nothing": ([{"id": 0}, {"id": 1, "held_out": True}], "one stage needs none"),
    "held out and learned": (
        [{"id": 0, "held_out": True}, {"id": 1}, {"id": 0, "stage": 1}, {"id": 1, "stage": 1}],
        "held out and trained on",
    ),
    "no JSON": (["{"], "is not readable JSON"),
    "nothing": ([], "is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_one_sentence(case, pool, ids, tmp_path):
    rows, sentence = REFUSED[case]
    lines = []
    for row in rows:
        row = {**row, "id": ids[row["id"]]} if isinstance(row, dict) and isinstance(row.get("id"), int) else row
        lines.append(row if isinstance(row, str) else json.dumps(row))
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(AmbientSolveError, match=sentence) as error:
        read_entry(path, pool, "select")
    assert "\n" not in str(error.value)


def test_a_million_rows_are_refused_before_they_are_read(pool, ids, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"id": "{ids[0]}"}}\n' * 1_000_000)
    started = time.process_time()
    with pytest.raises(AmbientSolveError, match="has at most"):
        read_entry(path, pool, "select")
    assert time.process_time() - started < 1
    path.write_text("{}\n" * (STAGES * len(ids) + 1))  # short rows pass the size, and are counted
    with pytest.raises(AmbientSolveError, match=f"has {STAGES * len(ids) + 1} rows"):
        read_entry(path, pool, "select")


def test_annotate_says_something_of_every_picture(pool, ids, tmp_path):
    with pytest.raises(AmbientSolveError, match=f"1 of {len(ids)} pictures have no row"):
        read_entry(table(tmp_path / "a.jsonl", *map(Choice, ids[1:])), pool, "annotate")
    rows = [Choice(ids[0], 0.0), *map(Choice, ids[1:])]
    assert read_entry(table(tmp_path / "b.jsonl", *rows), pool, "annotate").track == "annotate"


def test_low_levels_must_have_a_picture(pool, ids, tmp_path):
    """All pictures noisy: nothing teaches the levels below their noise. One clean one is enough."""
    rows = [Choice(i, sigma_noise=0.2) for i in ids]
    with pytest.raises(AmbientSolveError, match="No picture is used at noise levels from 0.03 to 0.23"):
        read_entry(table(tmp_path / "a.jsonl", *rows), pool, "annotate")
    rows[3] = Choice(ids[3])
    assert read_entry(table(tmp_path / "b.jsonl", *rows), pool, "annotate")
    rows[3] = Choice(ids[3], sigma_max=0.1, sigma_min=math.inf)
    with pytest.raises(AmbientSolveError, match="from 0.1 to 0.23"):
        read_entry(table(tmp_path / "c.jsonl", *rows), pool, "annotate")


def test_each_stage_must_cover_the_levels(pool, ids, tmp_path):
    rows = [Choice(ids[0], held_out=True), Choice(ids[1]), Choice(ids[2], stage=1)]
    entry = read_entry(table(tmp_path / "a.jsonl", *rows), pool, "select")
    assert entry.stages == 2 and entry.validating == 1
    assert [s.name for s in entry.samples(pool, 0)] == [ids[1], ids[0]], "what is held out comes last"
    rows[1] = replace(rows[1], weight=0.0)
    with pytest.raises(AmbientSolveError, match="No picture of stage 0"):
        read_entry(table(tmp_path / "b.jsonl", *rows), pool, "select")


def bring(folder, pictures):
    folder.mkdir()
    for name, picture in pictures:
        save_png(picture.float() / 255, folder / f"{name.replace(' ', '-')}.png")
    return folder


def test_own_pictures_are_brought(pool, tmp_path):
    own = gather_pictures("brain-scans", 32)[0][-12:]
    entry = read_entry(bring(tmp_path / "own", own), pool, "bring")
    assert len(entry.samples(pool, 0)) == 12 and {tuple(s.z.shape) for s in entry.brought} == {(1, 16, 16)}
    run = tmp_path / "run"
    write_data(entry, pool, run)
    assert entry_of_run(run, pool).hash == entry.hash


def test_test_pictures_that_are_brought_are_found(pool, tmp_path):
    """As they are, paler and compressed, and noisy; other phantoms, which all look alike, are not taken for copies."""
    truth = read_truth(pool)
    others = gather_pictures("brain-scans", 16)[0][-20:]
    refuse_test_pictures(read_entry(bring(tmp_path / "others", others), pool, "bring"), truth)
    x = truth.held_out[3]
    paler = (127.5 + 0.8 * (x.float() - 127.5)).clamp(0, 255)
    compressed = (JpegBlocks(quality=60).degrade(paler / 127.5 - 1, None) + 1) * 127.5
    noisy = x + 4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for name, copy in {"same": x, "compressed": compressed, "noisy": noisy}.items():
        pictures = [*others, ("a copy", copy.float().round().clamp(0, 255).byte())]
        entry = read_entry(bring(tmp_path / name, pictures), pool, "bring")
        with pytest.raises(AmbientSolveError, match="near-copies of held-out ones"):
            refuse_test_pictures(entry, truth)


def test_a_run_holds_one_entry_and_it_cannot_be_changed(pool, ids, tmp_path):
    first = read_entry(table(tmp_path / "a.jsonl", *map(Choice, ids[:9])), pool, "select")
    second = read_entry(table(tmp_path / "b.jsonl", *map(Choice, ids[:8])), pool, "select")
    record = write_data(first, pool, tmp_path / "run")
    assert write_data(first, pool, tmp_path / "run") == record
    with pytest.raises(AmbientSolveError, match="the run of another entry"):
        write_data(second, pool, tmp_path / "run")
    table(tmp_path / "run" / "entry.jsonl", *map(Choice, ids[:8]))
    with pytest.raises(AmbientSolveError, match="changed after it was entered"):
        entry_of_run(tmp_path / "run", pool)


def test_an_unknown_track_is_a_sentence(pool, tmp_path):
    with pytest.raises(AmbientSolveError, match="no track 'selct'"):
        read_entry(tmp_path, pool, "selct")
