"""One unit of noise for users, that of pixel values from 0 to 1; files name both, and those of before are read."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ambient_solve.cli.flags import damage_help, read_damages
from ambient_solve.data.corruption import MANIFEST, RUN, Corruption, read_corrupted, write_corrupted
from ambient_solve.data.damages import (
    DAMAGES,
    Custom,
    GaussianBlur,
    JpegBlocks,
    KSpaceLines,
    Noise,
    RandomMask,
    make_damage,
    user_knobs,
)
from ambient_solve.data.sample import Sample
from ambient_solve.data.units import in_prior_units, with_picture_units
from ambient_solve.errors import AmbientSolveError
from helpers import one_sentence

LEVELS = ("sigma_noise", "sigma_min", "sigma_max")


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def write(folder, *rows: dict, channels: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    save_file({"z": torch.zeros(channels, 4, 4)}, folder / "z.safetensors")
    (folder / MANIFEST).write_text("".join(json.dumps({"file": "z.safetensors", **row}) + "\n" for row in rows))


def pictures(n: int, level: int = 128):
    return [(f"{i}.png", torch.full((3, 16, 16), level, dtype=torch.uint8)) for i in range(n)]


@pytest.mark.parametrize("kind", [name for name, cls in DAMAGES.items() if cls is not Custom])
def test_a_level_may_be_given_in_either_unit(kind):
    """The names of before mean what they meant; `_01` is half of it, to the last bit."""
    levels = [k.name for k in user_knobs(DAMAGES[kind]) if k.name.endswith("_01")]
    for twin in levels:
        name = twin.removesuffix("_01")
        assert make_damage({"kind": kind, twin: 0.15}) == make_damage({"kind": kind, name: 0.3})
        assert make_damage({"kind": kind, twin: "0.15", name: "0.3"}) == make_damage({"kind": kind, name: 0.3})
        assert make_damage({"kind": kind, twin: 0.15}) != make_damage({"kind": kind, name: 0.15})
        with pytest.raises(AmbientSolveError, match=f"{twin} = 0.15"):
            make_damage({"kind": kind, twin: 0.15, name: 0.15})
    assert bool(levels) == (kind != "kspace")


def test_a_scan_has_no_second_unit():
    with pytest.raises(AmbientSolveError, match="no knob 'sigma_01'"):
        make_damage({"kind": "kspace", "sigma_01": 0.1})
    assert "sigma" in [k.name for k in user_knobs(KSpaceLines)]


def test_the_help_of_the_command_line_speaks_of_pixels_from_0_to_1():
    text = damage_help()
    assert "[-1, 1]" not in text and "sigma_01=0.1 " in text and "from 0 to 1" in text
    assert "    sigma=" in text.split("kspace:")[1].split("\n\n")[0]  # complex pictures have but one unit
    assert "    sigma=" not in text.split("kspace:")[0]


def test_noise_of_a_tenth_is_a_tenth_of_white(tmp_path):
    """Gray pictures of 128 of 255 come back with a deviation of 0.1 where pixel values go from 0 to 1."""
    data = [(str(i), torch.full((3, 32, 32), 128, dtype=torch.uint8)) for i in range(20)]
    for given in (read_damages((), sigma=0.1), read_damages(("noise sigma_01=0.1",))):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write_corrupted(data, 20, Corruption(clean_share=0.0, damages=given), folder)
        x = torch.stack([(s.z.float() + 1) / 2 for s in read_corrupted(folder)])
        assert abs(float(x.std()) / 0.1 - 1) < 0.02


def test_a_manifest_names_both_units_and_each_is_enough(tmp_path):
    damages = (Noise(sigma=0.3), JpegBlocks(quality=20, sigma_min=1.5), RandomMask(sigma=0.1), GaussianBlur())
    write_corrupted(pictures(12), 12, Corruption(3, 0.25, damages), tmp_path / "set")
    rows, samples = rows_of(tmp_path / "set"), list(read_corrupted(tmp_path / "set"))
    assert any(row["sigma_noise"] for row in rows) and any(row["sigma_min"] for row in rows)
    for row in rows:
        for name in LEVELS:
            assert row[name + "_01"] == row[name] / 2
    noisy = next(row for row in rows if row["damage"] == "noise")
    assert noisy["parameters"] == {"sigma": 0.3, "sigma_01": 0.15}
    settings = json.loads((tmp_path / "set" / RUN).read_text())["damages"]
    assert [(d["sigma"], d["sigma_01"]) for d in settings if "sigma" in d] == [(0.3, 0.15), (0.1, 0.05)]
    assert tuple(make_damage(d) for d in settings) == damages
    for drop in (lambda name: name.endswith("_01"), lambda name: name in LEVELS):
        kept = [{k: v for k, v in row.items() if not drop(k)} for row in rows]
        (tmp_path / "set" / MANIFEST).write_text("".join(json.dumps(row) + "\n" for row in kept))
        back = list(read_corrupted(tmp_path / "set"))
        assert [[getattr(s, k) for k in LEVELS] for s in back] == [[getattr(s, k) for k in LEVELS] for s in samples]


def test_a_manifest_of_your_own_is_written_in_the_unit_of_pictures(tmp_path):
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / "a.png")
    row = {"file": "a.png", "sigma_noise_01": 0.1, "sigma_max_01": math.inf}
    (tmp_path / MANIFEST).write_text(json.dumps(row) + "\n")
    (sample,) = read_corrupted(tmp_path)
    assert (sample.sigma_noise, sample.sigma_min, sample.sigma_max) == (0.2, 0.0, math.inf)


WRONG = {
    "two numbers that differ": ({"sigma_noise": 0.1, "sigma_noise_01": 0.1}, 1, "sigma_noise_01 = 0.1"),
    "no level": ({}, 1, "sigma_noise_01"),
    "no number": ({"sigma_noise_01": "much"}, 1, "much"),
    "a list": ({"sigma_noise_01": [0.1]}, 1, "sigma_noise_01"),
    "below 0": ({"sigma_noise_01": -0.1}, 1, "no levels"),
    "a scan": ({"sigma_noise_01": 0.1}, 2, "2 channels"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path, case):
    row, channels, words = WRONG[case]
    write(tmp_path / "set", row, channels=channels)
    with pytest.raises(AmbientSolveError, match="line 1") as raised:
        list(read_corrupted(tmp_path / "set"))
    assert words in str(raised.value) and one_sentence(str(raised.value))


def test_rounded_numbers_agree():
    assert in_prior_units({"sigma": 0.333333, "sigma_01": 0.166667}, ("sigma",))["sigma"] == 0.333333
    assert with_picture_units({"sigma": 0.2, "share": 1.0}, ("sigma",)) == {"sigma": 0.2, "share": 1.0, "sigma_01": 0.1}


def test_the_former_unit_is_named_where_it_is_used(capsys):
    read_damages(("noise sigma=0.2", "jpeg sigma_min=1.5", "kspace sigma=0.1"))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "sigma=0.2" in said[0] and "sigma_01=0.1" in said[0] and "sigma_min_01=0.75" in said[1]
    read_damages(("noise sigma_01=0.1", "jpeg", "noise sigma=0.2 sigma_01=0.1"))
    assert capsys.readouterr().err == ""


def test_one_of_the_short_forms_at_a_time():
    assert read_damages((), sigma=0.1) == read_damages((), sigma_noise=0.2) == (Noise(sigma=0.2),)
    for given in ({"texts": ("jpeg",), "sigma": 0.1}, {"texts": (), "sigma": 0.1, "sigma_noise": 0.2}):
        with pytest.raises(AmbientSolveError, match="give one"):
            read_damages(**given)


@pytest.mark.parametrize(("channels", "cells"), [(1, "| noise | 0.1 | 0.2 |"), (2, "| noise | - | 0.2 |")])
def test_a_model_card_names_both_units(channels, cells):
    from ambient_solve.training.card import model_card

    samples = [Sample("a", torch.zeros(channels, 4, 4).half(), 0.2, damage="noise")]
    settings = {"batch": 1, "seed": 0, "sources": []}
    text = model_card("mine", settings, samples, 1, 2.0, {})
    assert cells in text and "[-1, 1]" not in text
