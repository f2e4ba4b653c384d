"""The commands of the testbed as they are typed: from nothing to a board, the same numbers however they are run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")
pytest.importorskip("imagehash", reason="near-copies need imagehash: pip install 'ambient-solve[train]'")

from ambient_solve.cli.dispatch import main
from ambient_solve.testbed.entry import Choice, read_entry
from ambient_solve.testbed.pool import read_pool, read_truth
from ambient_solve.testbed.recipe import RECIPES, training_settings
from ambient_solve.testbed.record import read_artifact, write_artifact
from pools import HELD_OUT, table

SEEDS = range(RECIPES["test"].seeds)
POOL = ["--domain", "brain-scans", "--side", "16", "--held-out", str(HELD_OUT), "--limit", "110"]


def command(*words):
    return main(["testbed", *map(str, words)])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A pool, and a run of its clean pictures that was trained and scored in this process."""
    root = tmp_path_factory.mktemp("testbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert command("pool", root / "pool", *POOL) == 0
        pool = read_pool(root / "pool")
        clean = [i for i, row in read_truth(pool).rows.items() if row["kind"] == "clean"]
        table(root / "clean.jsonl", *map(Choice, clean))
        assert (
            command("train", root / "pool", root / "clean.jsonl", "--scale", "test", "--out", root / "run", "--jobs", 1)
            == 0
        )
        assert command("score", root / "pool", root / "run", "--jobs", 1) == 0
    return root


@pytest.fixture
def run(root, tmp_path):
    """A copy of that run."""
    shutil.copytree(root / "run", tmp_path / "run")
    return tmp_path / "run"


def same(first, second):
    """Whether two runs have the same priors, bit for bit, and the same scores."""
    priors = [[(r / f"seed-{s}" / "prior" / "model.safetensors").read_bytes() for s in SEEDS] for r in (first, second)]
    scores = [json.loads((r / "score.json").read_text())["seeds"] for r in (first, second)]
    return priors[0] == priors[1] and scores[0] == scores[1]


def test_every_artifact_names_its_parents(root):
    pool = read_artifact(root / "pool" / "pool.json", "pool")
    entry = read_artifact(root / "run" / "entry.json", "entry")
    train = read_artifact(root / "run" / "train.json", "train")
    score = read_artifact(root / "run" / "score.json", "score")
    assert entry["parents"] == {"pool": pool["hash"]}
    assert train["parents"] == {"pool": pool["hash"], "entry": entry["hash"]}
    assert train["recipe"] == RECIPES["test"].hash
    assert score["parents"] == {"train": train["hash"], "pool": pool["hash"]}
    assert set(score["seeds"]) == {str(s) for s in SEEDS} and score["summary"]["low"] < score["summary"]["headline"]


def test_two_processes_agree_with_one(root, tmp_path):
    """As torchrun and accelerate start them; each trains and scores its share of the seeds, from nothing."""
    out = tmp_path / "run"
    for words in (
        ["train", root / "pool", root / "clean.jsonl", "--scale", "test", "--out", out],
        ["score", root / "pool", out],
    ):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
        environment |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "ambient_solve", "testbed", *map(str, words)],
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        said = [process.communicate(timeout=300)[0] for process in started]
        assert [process.returncode for process in started] == [0, 0], said
        assert command(*words) == 0, "whoever is last, or this call, writes the record"
    assert same(root / "run", out)
    (out / "seed-1" / "prior" / "model.safetensors").write_bytes(b"")
    assert not same(root / "run", out), "the control"


def test_what_is_done_is_not_done_again(root, run, monkeypatch):
    def never(*_):
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr("ambient_solve.cli.testbed.train_seed", never)
    monkeypatch.setattr("ambient_solve.cli.testbed.score_seed", never)
    before = (run / "score.json").read_text()
    assert command("train", root / "pool", root / "clean.jsonl", "--scale", "test", "--out", run) == 0
    assert command("score", root / "pool", run) == 0
    assert (run / "score.json").read_text() == before


def test_a_seed_that_is_missing_is_trained_again_and_is_the_same(root, run, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    shutil.rmtree(run / "seed-1")
    assert command("train", root / "pool", root / "clean.jsonl", "--scale", "test", "--out", run, "--jobs", 1) == 0
    assert command("score", root / "pool", run, "--jobs", 1) == 0
    assert same(root / "run", run)


def altered(path, kind, **changes):
    """A record with other content and a hash that fits it, as whoever cheats would write it."""
    record = read_artifact(path, kind)
    parents = record.pop("parents")
    write_artifact(path, kind, {k: v for k, v in {**record, **changes}.items() if k not in ("kind", "hash")}, parents)


def test_an_altered_recipe_is_found(root, run, capsys):
    settings = json.loads((run / "seed-1" / "run.json").read_text())
    (run / "seed-1" / "run.json").write_text(json.dumps({**settings, "lr": 0.5, "images": 10**6}))
    assert command("score", root / "pool", run) == 2
    assert "seed-1 was trained by another recipe (images, lr)" in capsys.readouterr().err


def test_an_altered_hash_of_the_recipe_is_found(root, run, capsys):
    altered(run / "train.json", "train", recipe="0" * 32)
    assert command("score", root / "pool", run) == 2
    assert "was trained by another recipe than that of scale test" in capsys.readouterr().err


def test_other_pictures_than_the_entry_names_are_found(root, run, capsys):
    found = json.loads((run / "seed-0" / "data.json").read_text())
    (run / "seed-0" / "data.json").write_text(json.dumps([{**found[0], "samples": "0" * 16}]))
    assert command("score", root / "pool", run) == 2
    assert "seed-0 was trained on other pictures" in capsys.readouterr().err


def test_weights_that_were_exchanged_are_found(root, run, capsys):
    shutil.copyfile(run / "seed-0" / "prior" / "model.safetensors", run / "seed-1" / "prior" / "model.safetensors")
    assert command("score", root / "pool", run) == 2
    assert "was changed after its training" in capsys.readouterr().err


def test_a_record_that_was_changed_is_found(root, run, capsys):
    text = (run / "train.json").read_text()
    (run / "train.json").write_text(text.replace('"track": "select"', '"track": "bring"'))
    assert command("score", root / "pool", run) == 2
    assert "its hash no longer fits" in capsys.readouterr().err


def test_another_pool_is_refused(root, run, tmp_path, capsys):
    assert command("pool", tmp_path / "other", *POOL, "--seed", 1) == 0
    assert command("score", tmp_path / "other", run) == 2
    assert "was entered for another pool" in capsys.readouterr().err


def test_an_entry_is_put_on_the_board(root, tmp_path, capsys):
    board = tmp_path / "board"
    assert command("submit", root / "run", "--name", "oracle-clean", "--board", board) == 0
    assert command("board", board) == 0
    assert "oracle-clean" in capsys.readouterr().out
    assert "data:image/png;base64," in (board / "board.html").read_text()


def test_the_first_entry_of_the_page_is_one(root, tmp_path, monkeypatch):
    """The Python of docs/testbed.md, on this pool: most noisy pictures are taken for noisy, and no clean one is."""
    page = (Path(__file__).parents[2] / "docs" / "testbed.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    shutil.copytree(root / "pool", tmp_path / "pool" / "photographs")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/testbed.md", "exec"), {})
    pool = read_pool(root / "pool")
    truth = read_truth(pool).rows
    entry = read_entry(tmp_path / "entry.jsonl", pool, "annotate")
    noise = {kind: [r.sigma_noise for r in entry.rows if truth[r.id]["kind"] == kind] for kind in ("noise", "clean")}
    assert sum(n > 0 for n in noise["noise"]) > 0.6 * len(noise["noise"]) and sum(noise["clean"]) == 0


def test_a_recipe_is_known_by_all_of_its_settings():
    """Each field of a recipe changes its hash, and each that training uses its configuration."""
    recipe = RECIPES["test"]
    config = training_settings(recipe, side=16, channels=1, stages=["a"], held_out=0, seed=0)
    for name, value in asdict(recipe).items():
        changed = {"scale": "other", "widths": (8, 24)}.get(
            name, value * 2 if not isinstance(value, (str, tuple)) else value
        )
        other = type(recipe)(**{**asdict(recipe), name: changed})
        assert other.hash != recipe.hash, name
        if name in ("widths", "blocks", "embedding", "batch", "images", "lr", "half_life"):
            assert training_settings(other, side=16, channels=1, stages=["a"], held_out=0, seed=0) != config, name
    assert len({r.hash for r in RECIPES.values()}) == len(RECIPES)
