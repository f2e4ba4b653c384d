"""The weight of a picture in a manifest is its chance to be drawn, within its source alone."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve.data.corruption import fingerprint, read_corrupted
from ambient_solve.errors import AmbientSolveError
from ambient_solve.saving import save_tensors
from ambient_solve.training.config import Config, make
from ambient_solve.training.sources import read_data


def data_set(folder, weights):
    folder.mkdir()
    rows = []
    for i, weight in enumerate(weights):
        z = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(i)).clamp(-1, 1)
        save_tensors({"z": z}, folder / f"{i}.safetensors")
        rows.append({"file": f"{i}.safetensors", "sigma_noise": 0.0} | ({} if weight is None else {"weight": weight}))
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def shares(root, *sources):
    settings = {"sources": [{"path": f"corrupted:{name}", "share": share} for name, share in sources], "crop": 16}
    config = make(
        Config, {**settings, "out": "", "data_root": str(root), "validate_every": 0, "duplicates": False}, "it"
    )
    return read_data(config, False).share.tolist()


def test_the_chance_to_be_drawn_is_the_weight_within_the_source(tmp_path):
    data_set(tmp_path / "a", [1, 3, 0])
    data_set(tmp_path / "b", [None, None])
    assert shares(tmp_path, ("a", 1.0)) == [0.25, 0.75, 0.0]
    assert shares(tmp_path, ("a", 1.0), ("b", 2.0)) == [0.25, 0.75, 0.0, 1.0, 1.0]


def test_a_weight_is_part_of_what_is_trained_on(tmp_path):
    plain, ones, other = (data_set(tmp_path / n, w) for n, w in (("a", [None]), ("b", [1.0]), ("c", [2.0])))
    found = [fingerprint(read_corrupted(folder)) for folder in (plain, ones, other)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("weight", [-1, "nan", "inf"])
def test_a_weight_that_is_none_is_a_sentence(weight, tmp_path):
    with pytest.raises(AmbientSolveError, match="line 1: weight = .* is no chance to be drawn"):
        list(read_corrupted(data_set(tmp_path / "a", [weight])))
