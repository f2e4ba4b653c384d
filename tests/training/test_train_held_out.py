"""What a run on data that were damaged before is measured on, and what of that it also learns from."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve.data.corruption import Corruption, corrupt, write_corrupted
from ambient_solve.data.damages import BoxMask, GaussianBlur, JpegBlocks, Noise, RandomMask
from ambient_solve.data.images import read_images
from ambient_solve.data.leaks import damaged_copies
from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.gaussian import GaussianPrior
from ambient_solve.priors.network import NetworkConfig
from helpers import one_sentence
from test_train_safety import command, root, trainers  # noqa: F401


def scenes(n: int, seed: int = 0, side: int = 48) -> list[tuple[str, torch.Tensor]]:
    """Smooth coloured pictures, no two alike."""
    draw, found = np.random.default_rng(seed), []
    for k in range(n):
        coarse = Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        picture = np.array(coarse.resize((side, side), Image.Resampling.BICUBIC))
        found.append((f"{seed}-{k}", torch.from_numpy(picture).movedim(-1, 0).contiguous()))
    return found


@pytest.fixture
def read(trainers, tmp_path):  # noqa: F811
    config, sources = trainers("ambient_solve.training.config"), trainers("ambient_solve.training.sources")

    def call(*given: dict, **settings):
        listed = tuple(config.Source(**source) for source in given)
        known = {
            "out": str(tmp_path / "out"),
            "data_root": str(tmp_path),
            "crop": 16,
            "sources": listed,
            "held_out": 0.0,
        }
        return sources.read_data(config.Config(**known, **settings), True)

    return call


def test_last_clean_pictures_of_a_damaged_folder_are_held_out(read, tmp_path):
    write_corrupted(scenes(12), 12, Corruption(3, 0.5, (Noise(sigma=0.2),)), tmp_path / "set")
    whole = read({"path": "corrupted:set"}, duplicates=False)
    clean = [s for s in whole.samples if s.damage == "clean"]
    found = read({"path": "corrupted:set", "held_out": 2}, duplicates=False)
    assert len(clean) == 6 and len(found.samples) == 10 and not found.held_out_noisy
    assert all(torch.equal(a, b.z.float()) for a, b in zip(found.held_out, clean[-2:], strict=True))
    names = {s.name for s in found.samples}
    assert names == {s.name for s in whole.samples} - {s.name for s in clean[-2:]}
    few = read({"path": "corrupted:set", "held_out": 2, "limit": 4}, duplicates=False)
    assert len(few.samples) == 4 and all(torch.equal(a, b) for a, b in zip(few.held_out, found.held_out, strict=True))
    with pytest.raises(AmbientSolveError, match="has but 6 clean pictures; 7 are held out") as error:
        read({"path": "corrupted:set", "held_out": 7}, duplicates=False)
    assert one_sentence(error)


def test_where_none_is_clean_noisy_ones_are_held_out_and_named(read, tmp_path):
    write_corrupted(scenes(8), 8, Corruption(3, 0.0, (Noise(sigma=0.2),)), tmp_path / "set")
    found = read({"path": "corrupted:set", "held_out": 3}, duplicates=False)
    assert not found.held_out and len(found.samples) == 5 and len(found.held_out_noisy) == 3
    assert {s.name for s in found.samples}.isdisjoint(s.name for s in found.held_out_noisy)
    with pytest.raises(AmbientSolveError, match="has but 8 pictures; 8 are held out"):
        read({"path": "corrupted:set", "held_out": 8}, duplicates=False)


def test_noisy_loss_is_at_the_levels_that_may_be_used_and_prefers_the_exact_denoiser(trainers):  # noqa: F811
    """White Gaussian data with noise .3: the denoiser that knows their variance, and one that is given half of it."""
    validation, config, sources = (
        trainers("ambient_solve.training.validation"),
        trainers("ambient_solve.training.config"),
        trainers("ambient_solve.training.sources"),
    )
    shape, n = (1, 8, 8), 64
    prior = {v: GaussianPrior(torch.zeros(shape), v * torch.eye(64)) for v in (0.25, 0.125)}
    z0 = prior[0.25].sample(n, torch.Generator().manual_seed(0))
    settings = Corruption(1, 0.0, (Noise(sigma=0.3),))
    samples = list(corrupt([(str(i), z) for i, z in enumerate(z0)], n, settings))
    data = sources.Data([], np.array([]), [], samples)
    network = NetworkConfig(channels=1)
    for objective in ("Denoise", "Consistency"):
        kind = getattr(importlib.import_module(f"ambient_solve.objectives.{objective.lower()}"), objective)
        settings = config.Config(out="x", crop=8, network=network, objective=kind())
        right, wrong = (validation.held_out_loss(prior[v], settings, data) for v in (0.25, 0.125))
        assert set(right) == {"noisy 0.5", "noisy 1", "noisy 2", "noisy 5"}, "above the buffer of .3 alone"
        assert all(right[level] < wrong[level] for level in right)
    # Annotated samples are left out below their level.
    high = replace(data, held_out_noisy=[replace(s, sigma_min=1.5) for s in samples])
    assert set(validation.held_out_loss(prior[0.25], settings, high)) == {"noisy 2", "noisy 5"}


def test_run_on_a_damaged_folder_measures_itself(root, command, tmp_path):  # noqa: F811
    for name, share in (("half", 0.5), ("none", 0.0)):
        pictures = list(read_images(root / "pictures"))
        write_corrupted(pictures, 8, Corruption(3, share, (Noise(sigma=0.2),)), root / f"held-{name}")
        settings = {"sources": [{"path": f"corrupted:held-{name}", "held_out": 2}], "validate_every": 2, "images": 8}
        settings |= {"objective": {"kind": "consistency"}} if name == "none" else {}
        code, _, error = command(settings, "--out", str(root / f"out-{name}"))
        assert code == 0, error
        rows = [json.loads(line) for line in (root / f"out-{name}" / "stats.jsonl").read_text().splitlines()]
        assert all(key.startswith("noisy ") == (name == "none") for key in rows[-1]["held out"])
        assert len(rows[-1]["held out"]) >= 4
        card = (root / f"out-{name}" / "prior" / "README.md").read_text()
        assert ("Denoising of held-out clean pictures" in card) == (name == "half")


DAMAGES = {
    "noise": Noise(sigma=0.3),
    "much noise": Noise(sigma=0.8),
    "three quarters missing": RandomMask(missing=0.75),
    "a box missing": BoxMask(side=0.5),
    "jpeg": JpegBlocks(quality=10),
    "blur": GaussianBlur(width=2.0),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_copies_of_held_out_pictures_are_found_and_other_pictures_are_not(kind):
    pictures = scenes(40)
    samples = list(corrupt(pictures, 40, Corruption(1, 0.0, (DAMAGES[kind],))))
    found = damaged_copies(pictures[:10], samples)
    assert found == [[f"0-{k}", f"0-{k}"] for k in range(10)]
    # Control: other pictures have none, and the hash of `duplicate_groups` finds no copy with gaps or much noise.
    assert damaged_copies(scenes(10, seed=1), samples) == []


def test_pictures_without_structure_are_no_copies():
    grey = [(str(k), torch.full((3, 32, 32), 90 + k, dtype=torch.uint8)) for k in range(4)]
    assert damaged_copies(grey, list(corrupt(grey, 4, Corruption(0, 1.0)))) == []


def test_duplicates_are_searched_in_damaged_folders_too(read, tmp_path, capsys):
    pictures = scenes(12)
    write_corrupted(pictures, 12, Corruption(3, 0.0, (Noise(sigma=0.3),)), tmp_path / "set")
    (tmp_path / "photos").mkdir()
    for name, (_, picture) in zip(("a", "b", "c", "d", "y", "z"), [*scenes(4, seed=5), *pictures[:2]], strict=True):
        Image.fromarray(picture.movedim(0, -1).numpy()).save(tmp_path / "photos" / f"{name}.png")
    read({"path": "photos", "held_out": 3}, {"path": "corrupted:set"})
    found = json.loads((tmp_path / "out" / "duplicates.json").read_text())["held out and trained on"]
    assert found == [["photos/y.png", "corrupted:set/0-0"], ["photos/z.png", "corrupted:set/0-1"]]
    assert "2 of them held out and trained on" in capsys.readouterr().out


def test_clean_pictures_held_out_of_a_damaged_folder_are_searched_in_it_and_in_the_others(read, tmp_path):
    pictures = scenes(8)
    write_corrupted(pictures, 8, Corruption(3, 1.0, (Noise(sigma=0.3),)), tmp_path / "clean")
    write_corrupted(pictures[-1:], 1, Corruption(3, 0.0, (Noise(sigma=0.3),)), tmp_path / "noisy")
    read({"path": "corrupted:clean", "held_out": 2}, {"path": "corrupted:noisy"})
    found = json.loads((tmp_path / "out" / "duplicates.json").read_text())["held out and trained on"]
    assert found == [["corrupted:clean/0-7", "corrupted:noisy/0-7"]]
