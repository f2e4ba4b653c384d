"""Words on the command line: `sample --prompt`, `restore --prompt`, concepts, and what is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")
pytest.importorskip("transformers", reason="text encoders need transformers: pip install 'ambient-solve[latent]'")

from ambient_solve import AmbientSolveError, NetworkConfig, NetworkPrior, Prompt, Solver, load_prior, operators
from ambient_solve.cli.dispatch import main
from ambient_solve.sampling import generate
from ambient_solve.training.inversion import new_concept
from helpers import one_sentence, rand
from pipelines import dit, stable_diffusion

SIDE = 16


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a pipeline of words, one of classes, a network of pixels, a concept and a picture."""
    root = tmp_path_factory.mktemp("prompts")
    stable_diffusion(root / "words")
    listening(root / "words" / "unet")
    dit(root / "classes")
    NetworkPrior(NetworkConfig(widths=(8, 16), groups=4)).save(root / "pixels")
    concept = new_concept(load_prior(root / "words"), "cat", "q", 4)
    for i, table in enumerate(concept.tables.values()):
        table.data += 5 * rand(*table.shape, seed=i)
    concept.save(root / "concept")
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(root / "photo.png")
    return root


def listening(folder: Path) -> None:
    """Make a random network depend on its words by more than a step of 8 bits."""
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel.from_pretrained(folder)
    for name, weight in network.named_parameters():
        if "attn2.to_out" in name:
            weight.data *= 1000
    network.save_pretrained(folder)


def sampled(made: Path, out: Path, *words: str) -> np.ndarray:
    argv = ["sample", str(made / "words"), "--n", "1", "--size", str(SIDE), "--steps", "3", "--out", str(out)]
    assert main([*argv, "--device", "cpu", *words]) == 0
    return np.asarray(Image.open(out / "0000.png"))


def test_samples_depend_on_the_prompt_and_on_the_resolution(made, tmp_path):
    much = ("--prompt-guidance", "60")
    concept = ("--concept", str(made / "concept"), *much)
    plain = sampled(made, tmp_path / "a", "--prompt", "a q", *much)
    cat = sampled(made, tmp_path / "b", "--prompt", "a <cat(1)>", *concept)
    fixed = sampled(made, tmp_path / "c", "--prompt", "a <cat|3|>", *concept)
    again = sampled(made, tmp_path / "d", "--prompt", "a <cat(1)>", *concept)
    assert plain.shape == (SIDE, SIDE, 3) and (cat == again).all()
    assert (plain != cat).sum() > 20 and (cat != fixed).sum() > 20
    record = json.loads(Image.open(tmp_path / "c" / "0000.png").info["ambient_solve"])
    assert record["prompt"] == "a <cat|3|>"


def test_a_file_is_restored_with_a_prompt(made, tmp_path):
    argv = ["restore", str(made / "photo.png"), "--task", "denoise", "--sigma", "0.2", "--prior", str(made / "words")]
    argv += ["--algorithm", "latino", "--steps", "2", "--samples", "1", "--device", "cpu"]
    words = ["--prompt", "a <cat>", "--concept", str(made / "concept"), "--prompt-guidance", "3"]
    assert main([*argv, "--out", str(tmp_path / "a"), *words]) == 0
    assert main([*argv, "--out", str(tmp_path / "b")]) == 0
    settings = json.loads((tmp_path / "a" / "photo" / "settings.json").read_text())
    assert settings["request"]["cond"]["text"] == "a <cat>" and list(settings["request"]["cond"]["concepts"]) == ["cat"]
    pictures = [np.asarray(Image.open(tmp_path / name / "photo" / "mean.png")) for name in "ab"]
    assert (pictures[0] != pictures[1]).any()
    before = (tmp_path / "a" / "photo" / "settings.json").stat().st_mtime_ns
    assert main([*argv, "--out", str(tmp_path / "a"), *words]) == 0  # finished before: nothing is done again
    assert (tmp_path / "a" / "photo" / "settings.json").stat().st_mtime_ns == before


LONG = "a" + " b" * 80


@pytest.mark.parametrize(
    ("prior", "words", "said"),
    [
        ("words", ["--prompt", "a <dog>"], "does not know"), ("words", ["--prompt", LONG], "shorten"),
        ("words", ["--prompt", "a", "--prompt-guidance", "-1"], "guidance=-1"),
        ("words", ["--negative", "a"], "--prompt"), ("words", ["--prompt", "a", "--concept", "nowhere"], "no concept"),
        ("pixels", ["--prompt", "a"], "takes no words"), ("classes", ["--prompt", "a"], "takes no words"),
        ("words", ["--prompt", "a \x1b[31m"], "no text"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["sample", "restore"])
def test_words_that_do_not_fit_are_one_sentence(command, prior, words, said, made, tmp_path, capsys):
    argv = ["sample", str(made / prior), "--n", "1", "--size", "16", "--steps", "2"]
    if command == "restore":
        argv = ["restore", str(made / "photo.png"), "--task", "denoise", "--sigma", "0.2", "--prior", str(made / prior)]
    assert main([*argv, "--out", str(tmp_path / "out"), "--device", "cpu", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error and "\x1b" not in error and not (tmp_path / "out").exists()


def test_a_class_and_a_prompt_are_not_both_taken(made, tmp_path, capsys):
    argv = ["restore", str(made / "photo.png"), "--task", "denoise", "--sigma", "0.2", "--out", str(tmp_path / "out")]
    assert main([*argv, "--cond", "3", "--prompt", "a"]) == 2
    assert "--cond is a class" in capsys.readouterr().err


@pytest.mark.parametrize("cond", ["a cat", Prompt("a cat"), ["a cat"]])
def test_priors_without_words_say_so_before_the_first_call(cond, made):
    prior, op = load_prior(made / "pixels"), operators.inpaint_random((3, SIDE, SIDE), missing=0.5, sigma=0.1)
    prior.denoise = None  # type: ignore[method-assign,assignment] # a call would fail in another way
    y = op(rand(1, 3, SIDE, SIDE))
    for call in (
        lambda: Solver(prior, "mmps", steps=2).solve(y, op, cond=cond, progress=False),
        lambda: generate(prior, 1, size=SIDE, cond=cond, progress=False),
    ):
        with pytest.raises(AmbientSolveError, match="takes no words") as error:
            call()
        assert one_sentence(error)
