"""A pool: the shares asked for, ids that are hashes of contents, damage done once, a truth that nothing gives away."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ambient_solve.data.leaks import damaged_copies
from ambient_solve.errors import AmbientSolveError
from ambient_solve.testbed.domains import DOMAINS, gather_pictures
from ambient_solve.testbed.pool import (
    Shares,
    copy_threshold,
    is_sealed_here,
    make_pool,
    picture_id,
    read_pool,
    read_truth,
)
from pools import HELD_OUT, small_pool

pytest.importorskip("imagehash", reason="near-copies need imagehash: pip install 'ambient-solve[train]'")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return small_pool(tmp_path_factory.mktemp("pool") / "pool")


def test_the_shares_are_those_asked_for(pool):
    asked = {k.replace("_", "-"): v for k, v in vars(Shares()).items()}
    kinds = pool.record["kinds"]
    assert set(kinds) == set(asked) and sum(kinds.values()) == len(pool.samples)
    for kind, number in kinds.items():
        assert abs(number / kinds["clean"] - asked[kind] / asked["clean"]) < 1.5 / kinds["clean"] + 0.06, kind


def test_the_truth_is_true(pool):
    """Noise is as strong as its row says, measured against the clean picture; nothing else holds noise."""
    truth = read_truth(pool)
    clean = dict(gather_pictures("brain-scans", 16)[0])
    measured = {}
    for s in pool.samples:
        row = truth.rows[s.name]
        if row["source"] in clean and row["kind"] != "duplicate":
            error = s.z.float() - (clean[row["source"]].float() / 127.5 - 1)
            measured.setdefault((row["damage"], row["sigma_noise"]), []).append(float(error.square().mean()) ** 0.5)
    assert {damage for damage, _ in measured} == {"clean", "noise", "gaussian-blur", "jpeg", "downsampling"}
    for (damage, sigma), errors in measured.items():
        if damage == "noise":
            assert abs(np.mean(errors) / sigma - 1) < 0.05
        elif damage == "clean":
            assert max(errors) < 1 / 127.5, "no more than the dither"
        else:
            assert sigma == 0 and np.mean(errors) > 1 / 127.5


def test_an_id_is_the_hash_of_the_content(pool):
    assert all(picture_id(s.z) == s.name for s in pool.samples)
    z = pool.samples[0].z.clone()
    z[0, 0, 0] += 0.25
    assert picture_id(z) != pool.samples[0].name


def test_the_same_seed_makes_the_same_pool_and_another_another(pool, tmp_path):
    assert small_pool(tmp_path / "again").record == pool.record
    other = small_pool(tmp_path / "other", seed=1)
    assert not {s.name for s in other.samples} & {s.name for s in pool.samples}


def test_a_pool_is_made_once(pool):
    with pytest.raises(AmbientSolveError, match="already holds a pool"):
        small_pool(pool.folder)


def test_what_participants_get_says_nothing_of_the_damage(pool):
    """The public rows differ in id, file and what is stated alone; no picture is on the grid of 8 bits."""
    truth = read_truth(pool).rows
    lines = (pool.folder / "pool" / "manifest.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["name"] for row in rows] == sorted(truth), "the order is that of the hashes"
    assert {json.dumps({**row, "file": "", "name": "", "stated": ""}, sort_keys=True) for row in rows} == {
        json.dumps({"file": "", "name": "", "sigma_noise": 0.0, "stated": ""}, sort_keys=True)
    }
    kinds = {kind: {r["stated"] for r in rows if truth[r["name"]]["kind"] == kind} for kind in pool.record["kinds"]}
    assert kinds.pop("mislabeled") == {"clean"} and kinds.pop("clean") == {"clean", ""}
    assert all(stated == {""} for stated in kinds.values())

    def on_grid(z):
        steps = (z.double() + 1) * 127.5
        return float(((steps - steps.round()).abs() < 0.05).double().mean())

    assert max(on_grid(s.z) for s in pool.samples) < 0.35
    picture = torch.randint(256, (1, 16, 16), generator=torch.Generator().manual_seed(0))
    assert on_grid((picture / 127.5 - 1).half()) > 0.9, "the control: without dither it would show"


def test_held_out_pictures_have_no_near_copy_in_the_pool(pool):
    truth = read_truth(pool)
    held_out = [(str(i), x) for i, x in enumerate(truth.held_out)]
    assert len(held_out) == HELD_OUT
    clean = [s for s in pool.samples if truth.rows[s.name]["kind"] in ("clean", "duplicate")]
    assert damaged_copies(held_out, clean, copy_threshold(truth.held_out)) == []
    assert damaged_copies([("own", clean[0].z.float())], clean), "the control: a picture of the pool is found"


def test_duplicates_are_near_copies_of_clean_pictures(pool):
    truth = read_truth(pool).rows
    clean = {truth[s.name]["source"]: s for s in pool.samples if truth[s.name]["kind"] == "clean"}
    copies = [s for s in pool.samples if truth[s.name]["kind"] == "duplicate"]
    assert copies
    for s in copies:
        original = clean[truth[s.name]["source"]]
        assert s.name != original.name and damaged_copies([("copy", s.z.float())], [original])


@pytest.mark.parametrize("name", ["truth.jsonl", "held_out.safetensors", "seed.json"])
def test_what_is_sealed_cannot_be_changed(pool, tmp_path, name):
    shutil.copytree(pool.folder, tmp_path / "pool")
    own = read_pool(tmp_path / "pool")
    assert is_sealed_here(own) and read_truth(own).rows
    with (tmp_path / "pool" / "sealed" / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(AmbientSolveError, match="committed"):
        read_truth(own)


def test_a_pool_without_its_seal_is_read_and_not_scored(pool, tmp_path):
    shutil.copytree(pool.folder, tmp_path / "pool")
    shutil.rmtree(tmp_path / "pool" / "sealed")
    own = read_pool(tmp_path / "pool")
    assert not is_sealed_here(own) and len(own.samples) == len(pool.samples)
    with pytest.raises(AmbientSolveError, match="lacks truth.jsonl"):
        read_truth(own)


def test_a_picture_that_was_changed_is_found(pool, tmp_path):
    shutil.copytree(pool.folder, tmp_path / "pool")
    first, second = sorted((tmp_path / "pool" / "pool").glob("*.safetensors"))[:2]
    assert load_file(first)["z"].dtype == torch.float16
    shutil.copyfile(second, first)
    with pytest.raises(AmbientSolveError, match="was changed"):
        read_pool(tmp_path / "pool")


@pytest.mark.parametrize("name", DOMAINS)
def test_every_domain_works_offline(name):
    own, foreign = gather_pictures(name, 24)
    assert len(own) >= 80 and len(foreign) >= 30
    assert {tuple(p.shape) for _, p in own + foreign} == {(DOMAINS[name].channels, 24, 24)}
    assert len({n for n, _ in own}) == len(own)


def test_too_few_pictures_are_a_sentence(tmp_path):
    own, foreign = gather_pictures("brain-scans", 16)
    with pytest.raises(AmbientSolveError, match="20 are needed"):
        make_pool(tmp_path, "brain-scans", own[:30], foreign, shares=Shares(), held_out=4)
    with pytest.raises(AmbientSolveError, match="cannot be held out"):
        make_pool(tmp_path, "brain-scans", own[:30], foreign, shares=Shares(), held_out=30)
    with pytest.raises(AmbientSolveError, match="no domain 'cats'"):
        gather_pictures("cats", 16)
