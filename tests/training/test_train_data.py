"""Data that changed, cannot be read, or show nothing: said before the first step, by name."""

from __future__ import annotations

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve.cli.dispatch import main
from helpers import one_sentence
from test_train_held_out import scenes
from test_train_safety import command, root, trainers  # noqa: F401

TWO = {"images": 8, "checkpoint_every": 1, "stats_every": 1}
"""Two steps, a checkpoint after each."""


@pytest.fixture
def pictures(root):  # noqa: F811
    """Eight pictures in a folder of their own, made anew for each test."""
    folder = root / "own"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, picture in scenes(8):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{name}.png")
    return folder


def pack(folder, path):
    """The pictures of a folder as an .npz pack."""
    files = [p.read_bytes() for p in sorted(folder.iterdir())]
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(path, data=np.frombuffer(b"".join(files), np.uint8), offsets=offsets)


def gone(folder):
    (folder / "0-3.png").unlink()


def added(folder):
    shutil.copy(folder / "0-3.png", folder / "other.png")


def repainted(folder):
    Image.open(folder / "0-3.png").transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(folder / "0-3.png")


def swapped(folder):
    for a, b in (("0-3.png", "x"), ("0-4.png", "0-3.png"), ("x", "0-4.png")):
        (folder / a).rename(folder / b)


@pytest.mark.parametrize(
    "change, said",
    [
        (gone, "in own 1 picture is gone (0-3.png)"),
        (added, "in own 1 picture is new (other.png)"),
        (repainted, "in own 1 picture is changed (0-3.png)"),
        (swapped, "in own 2 pictures are changed (0-3.png, 0-4.png)"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(root, command, pictures, tmp_path, change, said):  # noqa: F811
    out, settings = tmp_path / "run", {**TWO, "sources": [{"path": "own"}]}
    assert command(settings, "--out", str(out))[0] == 0
    before = {p: p.read_bytes() for p in out.rglob("*.safetensors")}
    change(pictures)
    code, _, error = command(settings, "--out", str(out))
    last = error.strip().splitlines()[-1]
    assert code == 2 and f"The data of {out} have changed since checkpoint-2: {said}." in last, error
    assert "Put them back" in last and "another --out" in last and "Traceback" not in error
    assert {p: p.read_bytes() for p in out.rglob("*.safetensors")} == before
    # The same data in another folder of the same name, with other times, are the same data.
    shutil.rmtree(pictures)
    pictures.mkdir()
    for name, picture in scenes(8):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(pictures / f"{name}.png", compress_level=1)
        os.utime(pictures / f"{name}.png", (0, 0))
    assert command(settings, "--out", str(out))[0] == 0


def test_packs_damage_and_tables_that_changed_are_refused_too(root, command, pictures, tmp_path):  # noqa: F811
    def refused(settings: dict, out: str) -> str:
        code, _, error = command({**TWO, **settings}, "--out", str(tmp_path / out))
        return error.strip().splitlines()[-1] if code == 2 else ""

    packed = {"sources": [{"path": "own.npz"}]}
    pack(pictures, root / "own.npz")
    assert not refused(packed, "pack") and not refused(packed, "pack")
    repainted(pictures)
    pack(pictures, root / "own.npz")
    assert "in own.npz 1 picture is changed (own/3)" in refused(packed, "pack")
    # A level in a manifest of one's own.
    rows = [{"file": p.name, "sigma_noise": 0.1 * (k % 2)} for k, p in enumerate(sorted(pictures.iterdir()))]
    manifest = pictures / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stored = {"sources": [{"path": "corrupted:own"}]}
    assert not refused(stored, "stored") and not refused(stored, "stored")
    rows[1]["sigma_noise"] = 0.2
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "in corrupted:own 1 picture is changed (0-1.png)" in refused(stored, "stored")
    # What a run of an earlier version did not write down is not missed.
    (tmp_path / "stored" / "data.json").unlink()
    assert not refused(stored, "stored") and (tmp_path / "stored" / "data.json").is_file()


# Files that cannot be read ---


def test_bad_files_are_named_once_counted_and_left_out(root, command, pictures, tmp_path, capsys):  # noqa: F811
    settings = {**TWO, "sources": [{"path": "own"}]}
    assert command(settings, "--out", str(tmp_path / "good"))[0] == 0
    good = pictures / "0-9.png"
    good.write_bytes((pictures / "0-1.png").read_bytes()[:300])
    (pictures / "a._0.png").write_bytes(b"\0\5\x16\7" + bytes(60))
    code, _, error = command(settings, "--out", str(tmp_path / "bad"))
    assert code == 0 and error.count("Left out: ") == 1, error
    assert error.count("0-9.png is a damaged picture file") == 1 and error.count("a._0.png is not a picture") == 1
    same = [(tmp_path / out / "prior/model.safetensors").read_bytes() for out in ("good", "bad")]
    assert same[0] == same[1], "left out, and nothing else is changed"
    # `corrupt` leaves out the same.
    assert main(["corrupt", str(pictures), str(tmp_path / "set")]) == 0
    said = capsys.readouterr()
    assert said.err.count("0-9.png is a damaged picture file") == 1 and "8 pictures" in said.out
    assert len((tmp_path / "set/manifest.jsonl").read_text().splitlines()) == 8
    for path in pictures.iterdir():
        path.write_bytes(b"no picture")
    code, _, error = command(settings, "--out", str(tmp_path / "none"))
    assert code == 2 and one_sentence(error) and "0-0.png is not a picture" in error
    assert main(["corrupt", str(pictures), str(tmp_path / "none-set")]) == 2
    assert not (tmp_path / "none-set").exists() and not (tmp_path / "none/run.json").exists()


def test_bad_files_of_a_damaged_set_are_left_out_and_bad_rows_are_not(root, command, pictures, tmp_path):  # noqa: F811
    assert main(["corrupt", str(pictures), str(root / "damaged-set")]) == 0
    files = sorted((root / "damaged-set").glob("*.safetensors"))
    files[2].write_bytes(files[2].read_bytes()[:-9])
    files[5].unlink()
    settings = {**TWO, "network": {"widths": [8], "groups": 4, "embedding": 16, "sigma_min": 0.3}}
    settings["sources"] = [{"path": "corrupted:damaged-set"}]
    code, _, error = command(settings, "--out", str(tmp_path / "run"))
    assert code == 0 and "2 of 8 pictures of corrupted:damaged-set cannot be read and are left out" in error, error
    assert files[2].name in error and files[5].name in error
    manifest = root / "damaged-set/manifest.jsonl"
    manifest.write_text(manifest.read_text() + '{"file": "x.png", "sigma_noise": "much"}\n')
    code, _, error = command(settings, "--out", str(tmp_path / "run2"))
    assert code == 2 and one_sentence(error) and "line 9" in error


def test_a_damaged_folder_is_not_taken_for_a_folder_of_pictures(root, command, pictures, tmp_path):  # noqa: F811
    assert main(["corrupt", str(pictures), str(root / "forgotten")]) == 0
    code, _, error = command({**TWO, "sources": [{"path": "forgotten"}]}, "--out", str(tmp_path / "run"))
    last = error.strip().splitlines()[-1]
    assert code == 2 and one_sentence(last) and '"corrupted:forgotten"' in last


# Pictures that show nothing ---


@pytest.mark.parametrize("value", [0, 1, 255])
def test_pictures_of_one_value_are_refused_before_the_first_step(root, command, pictures, tmp_path, value):  # noqa: F811
    for path in pictures.iterdir():
        Image.new("RGB", (32, 32), (value,) * 3).save(path)
    code, _, error = command({**TWO, "sources": [{"path": "own"}]}, "--out", str(tmp_path / "run"))
    assert (
        code == 2 and one_sentence(error) and re.search("8 pictures (are each of one value|of .*own are equal)", error)
    )
    assert not (tmp_path / "run/run.json").exists()
    assert main(["corrupt", str(pictures), str(tmp_path / "set")]) == 2 and not (tmp_path / "set").exists()


def stored(root, name: str, z: torch.Tensor, sigma: float) -> dict:  # noqa: F811
    (root / name).mkdir()
    rows = []
    for k, row in enumerate(z):
        save_file({"z": row.contiguous()}, root / name / f"{k}.safetensors")
        rows.append(json.dumps({"file": f"{k}.safetensors", "sigma_noise": sigma}) + "\n")
    (root / name / "manifest.jsonl").write_text("".join(rows))
    return {**TWO, "network": {"widths": [8], "groups": 4, "embedding": 16, "sigma_min": 0.3}} | {
        "sources": [{"path": f"corrupted:{name}"}]
    }


def test_black_pictures_are_seen_through_noise_and_wrong_units_are_named(root, command, tmp_path):  # noqa: F811
    clean = torch.stack([p.float() / 127.5 - 1 for _, p in scenes(8)])
    noise = 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    cases = {
        "black": (noise - 1, 0.2, 2, "all 8 pictures are each of one value"),
        "bytes": (127.5 * (clean + 1), 0.0, 2, "far outside their range"),
        "trace": (
            clean / 16 - 15 / 16,
            0.0,
            0,
            "warning: corrupted:trace: all 8 pictures are each almost of one value",
        ),
        "right": (clean + noise, 0.2, 0, ""),
    }
    for name, (z, sigma, expected, said) in cases.items():
        code, _, error = command(stored(root, name, z, sigma), "--out", str(tmp_path / name))
        assert code == expected and said in error, (name, error)
        assert said or "of one value" not in error
