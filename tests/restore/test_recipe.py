"""A recipe says all: it survives the picture file, is never trusted, and repeats the same picture bit for bit."""

from __future__ import annotations

import dataclasses
import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ambient_solve import AmbientSolveError, NetworkConfig, NetworkPrior
from ambient_solve.algorithms import ALGORITHMS
from ambient_solve.cli.dispatch import main
from ambient_solve.knobs import knobs
from ambient_solve.restore.files import restore_file
from ambient_solve.restore.recipe import (
    KEY,
    MAX_TEXT,
    Recipe,
    cli_command,
    from_json,
    python_snippet,
    read_png,
    to_json,
    write_png,
)
from ambient_solve.restore.tasks import TASKS, Inpaint
from helpers import one_sentence, rand

RECIPES = {
    "defaults": Recipe(damage={"sigma": 0.1}, knobs={"steps": 2}),
    "denoise": Recipe("prior", "denoise", {"sigma": 0.1}, "proximal", {"steps": 2, "lambda_": 2.5, "draw": True}, 2, 7),
    "inpaint": Recipe("prior", "inpaint", {"mask": "my mask.png", "sigma": 0.02}, "auto", {"steps": 2}, 2, 3),
    "motion": Recipe("prior", "motion-blur", {"length": 5.0, "angle": -30.0}, "proximal", {"steps": 2}),
    "kernel": Recipe("prior", "gaussian-blur", {"kernel": "kernel.png"}, "proximal", {"steps": 2}),
    "shared name": Recipe("prior", "gaussian-blur", {"width": 1.5}, "pigdm", {"steps": 2, "width": 0.5}),
    "not linear": Recipe("prior", "jpeg", {"quality": 20}, "daps", {"steps": 2}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a user would stand: a prior, a picture, a mask and a kernel."""
    path = tmp_path_factory.mktemp("user")
    torch.manual_seed(0)
    NetworkPrior(NetworkConfig(widths=(8, 16), groups=4)).save(path / "prior")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path / "photo.png")
    mask = np.zeros((24, 32), np.uint8)
    mask[4:12, 6:20] = 255
    Image.fromarray(mask).save(path / "my mask.png")
    kernel = np.zeros((5, 5), np.uint8)
    kernel[2, 1:4] = 200
    Image.fromarray(kernel).save(path / "kernel.png")
    return path


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_the_file(tmp_path, name):
    recipe, x = RECIPES[name], rand(3, 9, 7)
    assert from_json(to_json(recipe)) == recipe
    write_png(x, tmp_path / "a.png", recipe)
    assert read_png(tmp_path / "a.png") == recipe
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(pixels, (x.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))


@pytest.mark.parametrize("name", [n for n in RECIPES if n != "defaults"])
def test_the_snippet_and_the_command_make_the_same_picture(folder, monkeypatch, capsys, tmp_path, name):
    monkeypatch.chdir(folder)
    recipe = RECIPES[name]
    scope = {}
    exec(python_snippet(recipe, "photo.png", f"{tmp_path}/snippet"), scope)
    program, *words = shlex.split(cli_command(recipe, "photo.png", f"{tmp_path}/command"))
    assert program == "ambient-solve" and main([*words, "--device", "cpu"]) == 0, capsys.readouterr().err
    snippet, command = (np.asarray(Image.open(tmp_path / way / "photo" / "mean.png")) for way in ("snippet", "command"))
    assert np.array_equal(snippet, command)
    texts = [(tmp_path / way / "photo" / "settings.json").read_text() for way in ("snippet", "command")]
    assert json.loads(texts[0])["request"] == json.loads(texts[1])["request"]
    files = {k: str(folder / v) for k, v in recipe.damage.items() if k in ("mask", "kernel")}
    direct = restore_file(
        folder / "photo.png",
        NetworkPrior.load(folder / "prior"),
        recipe.make_task(**files),
        algorithm=recipe.algorithm,
        options=recipe.knobs,
        n_samples=recipe.samples,
        seed=recipe.seed,
    )
    assert torch.equal(scope["restored"], direct.restoration.mean)
    # Another seed is another picture: the equality above is not that of two empty ones.
    assert not torch.equal(direct.restoration.mean, torch.zeros_like(direct.restoration.mean))
    other = dataclasses.replace(recipe, seed=recipe.seed + 1)
    exec(python_snippet(other, "photo.png", f"{tmp_path}/other"), scope)
    assert not torch.equal(scope["restored"], direct.restoration.mean)


def test_every_knob_is_typed_as_it_is_read():
    """Whatever its type, its name or its sign, the command gives a knob back as it was."""
    from ambient_solve.cli.flags import knob_values, split_knobs

    own = [k.name for cls in TASKS.values() for k in knobs(cls)] + ["task", "prior", "algorithm", "samples", "seed"]
    for name, cls in ALGORITHMS.items():
        values = {k.name: k.choices[-1] if k.choices else k.hi if k.type is not bool else True for k in knobs(cls)}
        values = {k.name: k.type(values[k.name]) for k in knobs(cls)}
        words = shlex.split(cli_command(Recipe(damage={"sigma": 0.1}, algorithm=name, knobs=values)))[3:]
        _, texts = split_knobs(words, [*own, "out"])
        assert knob_values(texts, name, own) == values, name


GOOD = json.loads(to_json(RECIPES["denoise"]))
BAD = {
    "no JSON": ("{", "not readable JSON"),
    "deep": ("[" * 15_000, "not readable JSON"),
    "a list": ("[1]", "no recipe"),
    "something else": ('{"a": 1}', "no recipe"),
    "too long": (" " * (MAX_TEXT + 1), "at most 20000"),
    "a later version": ({**GOOD, "recipe": 2}, "version 2"),
    "an unknown key": ({**GOOD, "stpes": 1}, "unknown entry 'stpes'"),
    "an unknown task": ({**GOOD, "task": "denose"}, "Did you mean 'denoise'"),
    "an unknown algorithm": ({**GOOD, "algorithm": "proxima"}, "Did you mean 'proximal'"),
    "a knob of none": ({**GOOD, "algorithm": "auto", "knobs": {"lambda_": 1.0}}, "'auto' has no knob"),
    "a knob of another": ({**GOOD, "knobs": {"zetta": 1.0}}, "Did you mean 'zeta'"),
    "a knob out of range": ({**GOOD, "knobs": {"steps": 10**9}}, "outside"),
    "a knob of the wrong type": ({**GOOD, "knobs": {"steps": "many"}}, "not a number"),
    "a knob that is a list": ({**GOOD, "knobs": {"steps": [1]}}, "printable"),
    "knobs that are none": ({**GOOD, "knobs": [1]}, "names with their values"),
    "samples in words": ({**GOOD, "samples": "4"}, "whole number"),
    "samples without end": ({**GOOD, "samples": 10**6}, "whole number from 1 to 10000"),
    "true for a number": ({**GOOD, "seed": True}, "whole number"),
    "no seed": ({**GOOD, "seed": -1}, "whole number"),
    "no number": (json.dumps({**GOOD, "damage": {"sigma": float("nan")}}), "NaN"),
    "no noise": ({**GOOD, "damage": {"sigma": 0.0}}, "above 0"),
    "a file elsewhere": ({**GOOD, "task": "inpaint", "damage": {"mask": "/etc/passwd"}}, "without a folder"),
    "a file above": ({**GOOD, "task": "inpaint", "damage": {"mask": "..\\mask.png"}}, "without a folder"),
    "a file that is a number": ({**GOOD, "task": "inpaint", "damage": {"mask": 3}}, "printable"),
    "a prior that is an option": ({**GOOD, "prior": "--out=/"}, "printable"),
    "a prior of many lines": ({**GOOD, "prior": "photos\nimport os"}, "printable"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_recipe_of_a_stranger_is_checked(name):
    given, words = BAD[name]
    with pytest.raises(AmbientSolveError, match=words) as error:
        from_json(given if isinstance(given, str) else json.dumps(given))
    assert one_sentence(error)


def test_words_stay_words(tmp_path, monkeypatch, folder):
    """A name with quotes, spaces and brackets is a name in the snippet and in the command, and nothing runs."""
    nasty = "x'); import os; print(\"$(touch hacked)\"); `touch hacked`;('"
    recipe = Recipe(nasty, "denoise", {"sigma": 0.1})
    monkeypatch.chdir(folder)
    with pytest.raises(AmbientSolveError, match="There is no prior"):
        exec(python_snippet(recipe), {})
    words = shlex.split(cli_command(recipe))
    assert words[words.index("--prior") + 1] == nasty and not (folder / "hacked").exists()


def png(path, **chunks: str):
    info = PngInfo()
    for key, text in chunks.items():
        info.add_text(key, text)
    Image.new("L", (4, 4)).save(path, pnginfo=info)
    return path


def test_pictures_without_a_recipe_have_none(tmp_path):
    (tmp_path / "letter.png").write_text("This is a letter.")
    Image.new("L", (4, 4)).save(tmp_path / "a.jpg")
    for path in (tmp_path / "letter.png", tmp_path / "a.jpg", tmp_path / "absent.png", png(tmp_path / "plain.png")):
        assert read_png(path) is None
    assert read_png(png(tmp_path / "other.png", parameters='{"recipe": 1}')) is None
    # What `Restoration.save` writes under the key is no recipe.
    assert read_png(png(tmp_path / "saved.png", **{KEY: '{"algorithm": "mmps", "seed": 0}'})) is None
    for text, words in (('{"recipe": 1, "task": "x"}', "no task"), ('{"recipe"' + " " * MAX_TEXT, "at most")):
        with pytest.raises(AmbientSolveError, match=words):
            read_png(png(tmp_path / "bad.png", **{KEY: text}))


def test_no_pixel_is_decoded(tmp_path, monkeypatch):
    write_png(rand(1, 4, 4), tmp_path / "a.png", RECIPES["denoise"])
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    assert read_png(tmp_path / "a.png") == RECIPES["denoise"]


def test_a_recipe_cannot_be_changed_from_outside():
    values = {"sigma": 0.1}
    recipe = Recipe(damage=values)
    values["sigma"] = 9.0
    assert recipe.damage == {"sigma": 0.1}
    mask = torch.ones(4, 4)
    made = Recipe(task="inpaint", damage={"mask": "mask.png"}).make_task(mask=mask)
    assert isinstance(made, Inpaint) and made.mask is mask
