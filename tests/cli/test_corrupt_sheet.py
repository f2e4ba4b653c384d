"""The contact sheet of `ambient-solve corrupt`: clean pictures beside damaged ones, a row for each kind of damage."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve.cli.damage_sheet import PAIRS, SHEET, SIDE, DamageSheet
from ambient_solve.cli.dispatch import main
from ambient_solve.data.corruption import Corruption, read_corrupted
from ambient_solve.data.damages import Noise, RandomMask
from ambient_solve.figures.sheet import GUTTER, MARGIN, Row, contact_sheet, picture_tile

KINDS = ["--damage", "noise sigma=0.2 share=3", "--damage", "random-mask missing=0.5"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    draw = np.random.default_rng(0)
    for k in range(9):
        coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((32, 32), Image.Resampling.BICUBIC).save(tmp_path / f"in/{k}.png")
    return tmp_path


def test_corrupt_draws_clean_and_damaged_pairs_by_kind(folder, capsys):
    assert main(["corrupt", str(folder / "in"), str(folder / "set"), *KINDS, "--clean-share", "0.1"]) == 0
    assert f"{folder / 'set' / SHEET}" in capsys.readouterr().out
    rows = [json.loads(line) for line in (folder / "set/manifest.jsonl").read_text().splitlines()]
    kinds = {kind: [k for k, row in enumerate(rows) if row["damage"] == kind] for kind in ("noise", "random-mask")}
    assert {kind: len(own) for kind, own in kinds.items()} == {"noise": 6, "random-mask": 2}
    sheet = np.asarray(Image.open(folder / "set" / SHEET).convert("RGB"))
    samples = list(read_corrupted(folder / "set"))
    # Pair by pair, the pixels of the clean picture and of what is stored stand on the sheet.
    expected = []
    for kind, own in kinds.items():
        tiles = []
        for k in own[:PAIRS]:
            clean = torch.from_numpy(np.array(Image.open(folder / "in" / rows[k]["name"]))).permute(2, 0, 1) / 255
            tiles += [picture_tile(clean), picture_tile((samples[k].z.float() + 1) / 2)]
        expected.append(Row(kind, "", tiles + [picture_tile(torch.ones(1, 32, 32))] * (2 * PAIRS - len(tiles))))
    drawn = np.asarray(contact_sheet("", [""] * 2 * PAIRS, expected, SIDE))
    assert drawn.shape == sheet.shape
    differs = (drawn != sheet).any(-1)
    for row in range(2):
        top = MARGIN + 58 + 34 + row * (44 + SIDE + 34 + GUTTER) + 44
        assert not differs[top : top + SIDE].any(), kinds
    assert differs.any(), "control: title and captions"


def test_a_resumed_corrupt_draws_the_same_sheet_and_nothing_damaged_draws_none(folder, monkeypatch, capsys):
    assert main(["corrupt", str(folder / "in"), str(folder / "set"), *KINDS]) == 0
    import ambient_solve.data.corruption as corruption

    plain, written = corruption.save_tensors, []

    def breaks(tensors, path):
        written.append(path)
        if len(written) == 5:
            raise KeyboardInterrupt
        plain(tensors, path)

    with monkeypatch.context() as patched:
        patched.setattr(corruption, "save_tensors", breaks)
        assert main(["corrupt", str(folder / "in"), str(folder / "again"), *KINDS]) == 130
    assert not (folder / "again" / SHEET).exists()
    assert main(["corrupt", str(folder / "in"), str(folder / "again"), *KINDS]) == 0
    sheets = [np.asarray(Image.open(folder / name / SHEET))[MARGIN + 40 :] for name in ("set", "again")]
    assert np.array_equal(*sheets)  # below the title, which names the folder
    assert main(["corrupt", str(folder / "in"), str(folder / "clean"), "--clean-share", "1"]) == 0
    assert not (folder / "clean" / SHEET).exists()


def test_no_more_pictures_are_kept_than_are_shown():
    corruption = Corruption(0, 0.5, (Noise(), RandomMask()))
    plan, sheet = corruption.plan(100), DamageSheet(corruption, 100)
    assert len(list(sheet.watch((str(k), torch.zeros(3, 4, 4)) for k in range(100)))) == 100
    assert len(sheet._clean) == 2 * PAIRS and all(plan[k] is not None for k in sheet._clean)
