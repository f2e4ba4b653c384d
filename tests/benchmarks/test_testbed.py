"""The baselines of the testbed are valid entries that do what they say, and its tables say what was measured."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")
pytest.importorskip("imagehash", reason="near-copies need imagehash: pip install 'ambient-solve[train]'")

import curation
import testbed
from ambient_solve.testbed.entry import read_entry, write_entry
from ambient_solve.testbed.pool import read_truth
from pools import small_pool

LEARNED = ("held-out-loss", "changing-admission")
"""Arms that train networks of their own."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return small_pool(tmp_path_factory.mktemp("pool") / "pool", pictures=150)


def used(pool, name, tmp_path):
    """The entry of an arm, and how many pictures of each kind it uses."""
    track, make = curation.ARMS[name]
    rows = make(pool, tmp_path)
    write_entry(tmp_path / "entry.jsonl", curation.filled(rows, pool) if track == "annotate" else rows)
    entry = read_entry(tmp_path / "entry.jsonl", pool, track)
    truth = read_truth(pool).rows
    kinds = [truth[row.id]["kind"] for row in entry.rows if row.weight > 0]
    return entry, {kind: kinds.count(kind) for kind in set(kinds)}


@pytest.mark.parametrize("name", [name for name in curation.ARMS if name not in LEARNED])
def test_an_arm_is_a_valid_entry(pool, name, tmp_path):
    _, kinds = used(pool, name, tmp_path)
    all_kinds = pool.record["kinds"]
    clean = kinds.get("clean", 0) / sum(kinds.values()), all_kinds["clean"] / sum(all_kinds.values())
    if name == "oracle-clean":
        assert kinds == {"clean": all_kinds["clean"]}
    elif name in ("everything-as-clean", "oracle-levels", "noise-estimate"):
        assert kinds == all_kinds
    elif name in ("classifier-filter", "stated-clean"):
        assert clean[0] > clean[1], "more of it is clean than of the pool"


def test_the_noise_that_is_estimated_is_that_which_was_added(pool, tmp_path):
    entry, _ = used(pool, "noise-estimate", tmp_path)
    truth = read_truth(pool).rows
    for sigma in (0.2, 0.4):
        found = [r.sigma_noise for r in entry.rows if truth[r.id]["sigma_noise"] == sigma]
        assert abs(np.median(found) / sigma - 1) < 0.25


def test_each_kind_has_an_arm_for_its_worth(pool, tmp_path):
    arms = curation.worth_arms(pool)
    kinds = set(pool.record["kinds"]) - {"clean", "mislabeled"}
    assert set(arms) == {f"with-{kind}" for kind in kinds} | {n for n in arms if n.startswith("clean-")}
    for rows in arms.values():
        write_entry(tmp_path / "entry.jsonl", curation.filled(rows, pool))
        read_entry(tmp_path / "entry.jsonl", pool, "annotate")


def test_worth_is_read_off_the_curve_of_clean_pictures():
    line, numbers = np.array([20.0, 21.0, 22.0]), np.log([10, 20, 40])
    for value, number in ((20, 10), (21, 20), (22, 40), (21.5, 20 * 2**0.5), (23, 80), (19, 5)):
        assert np.exp(testbed._read_off(value, line, numbers)) == pytest.approx(number)


def write_scores(folder, values):
    for seed, value in enumerate(values):
        row = {"headline": value, "denoising": {"0.1": value + 1, "1.6": value - 1}}
        (folder / f"seed-{seed}").mkdir(parents=True)
        (folder / f"seed-{seed}" / "score.json").write_text(json.dumps({"prior": "", "row": row}))


def test_the_tables_say_what_was_measured(tmp_path):
    seeds = np.array([0.0, 0.4, -0.3])
    for name, gain in {"everything-as-clean": 0.0, "oracle-clean": 0.5, "oracle-levels": 0.7}.items():
        for scale, factor in (("xxs", 1), ("xs", 2)):
            noise = 0.01 * np.array([1, -1, 1]) * (name != "everything-as-clean")
            write_scores(tmp_path / "arms" / scale / name, 20 + factor * gain + seeds + noise)
    table = testbed.arms_table(tmp_path, "xxs").splitlines()
    assert [line.split("|")[1].strip() for line in table[4:]] == [
        "oracle-levels",
        "oracle-clean",
        "everything-as-clean",
    ]
    assert "+0.703 (" in table[4] and table[4].count("*") == 2, "beyond what the seeds explain"
    assert "Spearman 1.00 (1.00 to 1.00" in testbed.agreement(tmp_path, "xxs", "xs")
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "pool.json").write_text(json.dumps({"kinds": {"clean": 40, "noise": 30}}))
    for name, value in {"clean-10": 20.0, "clean-20": 21.0, "clean-40": 22.0, "with-noise": 21.5}.items():
        write_scores(tmp_path / "worth" / "xxs" / name, value + seeds)
    worth = (20 * 2**0.5 - 20) / 30
    assert (
        f"| noise | 30 | +0.500 (+0.500 to +0.500) | {worth:.2f} ({worth:.2f} to {worth:.2f}) |"
        in testbed.worth_table(tmp_path, "xxs", 50)
    )
