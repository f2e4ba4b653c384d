"""A pipeline of words from pictures and captions: encoded, begun, trained, resumed, written and read again."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")
pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'ambient-solve[latent]'")

from ambient_solve import AmbientSolveError, LatentPrior, Prompt, Solver, load_prior, operators
from ambient_solve.data.corruption import read_corrupted
from ambient_solve.priors.autoencoder import TAEF2
from ambient_solve.priors.latent_pipeline import words_of
from ambient_solve.training.config import Config, make, read_config
from ambient_solve.training.finetune import finetune
from ambient_solve.training.latents import encode_pictures
from ambient_solve.training.words import sheet, start_pipeline
from helpers import one_sentence, rand, randn

SIDE, STEPS = 16, 6
MEANS = (("a red thing", 1.0), ("a blue thing", -1.0))
"""What toy latents show, and their mean."""
TRAINERS = Path(__file__).resolve().parents[2] / "trainers"
CLASSES = {"n01": "red thing", "n02": "blue thing"}
SETTINGS = {
    "name": "tiny words",
    "sources": [{"path": "corrupted:latents", "held_out": 2, "terms": "made here"}],
    "objective": {"kind": "captioned", "dropout": 0.2},
    "tuning": {"words": True},
    "crop": 2 * SIDE,
    "mirror": False,
    "duplicates": False,
    "batch": 4,
    "images": 4 * STEPS,
    "lr": 2e-3,
    "warmup": 4,
    "schedule": "constant",
    "ema": {"half_life": 10},
    "precision": "fp32",
    "stats_every": 1,
    "checkpoint_every": 2,
    "validate_every": 0,
    "tracker": "none",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A pack with classes, an autoencoder, a vocabulary; latents, and a pipeline to start from."""
    root = tmp_path_factory.mktemp("words")
    torch.manual_seed(0)
    save_file(TAEF2().state_dict(), root / "code.safetensors")
    draw, files, labels = np.random.default_rng(0), [], []
    for i in range(14):
        label = sorted(CLASSES)[i % 2]
        color = np.array([220, 40, 40] if label == "n01" else [40, 40, 220])
        pixels = (color + draw.integers(-30, 30, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "one.png")
        files.append(np.frombuffer((root / "one.png").read_bytes(), np.uint8))
        labels.append(label)
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(root / "pack.npz", data=np.concatenate(files), offsets=offsets, label=np.array(labels))
    (root / "classes.txt").write_text("".join(f"{CLASSES[label]}\n" for label in sorted(CLASSES)))
    (root / "merges.txt").write_text("#version\nt h\nr e\nre d</w>\n")
    words = {"captions": str(root / "classes.txt"), "template": "a {}", "enlarge": 2, "seed": 3}
    assert encode_pictures(str(root / "pack.npz"), root / "code.safetensors", root / "latents", **words) == 14
    begun(root, root / "start")
    return root


def begun(root: Path, out: Path, **changes) -> Path:
    small = {"widths": (8, 16), "heads": 8, "text_width": 16, "text_layers": 1, "tokens": 16} | changes
    return start_pipeline(root / "latents", root / "merges.txt", out, **small)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def run(root: Path, out: Path, **changes) -> Path:
    settings = {"out": str(out), "data_root": str(root), "init": str(root / "start"), **SETTINGS, **changes}
    return finetune(make(Config, settings, "test"))


def test_every_latent_has_the_words_of_its_class(root):
    with np.load(root / "pack.npz") as pack:
        labels = pack["label"]
    samples = list(read_corrupted(root / "latents"))
    assert len(samples) == 14 and {s.caption for s in samples} == {"a red thing", "a blue thing"}
    for sample in samples:
        assert sample.caption == f"a {CLASSES[labels[int(sample.name.rpartition('/')[2])]]}"
    assert samples[0].z.shape == (32, 4, 4), "16 pixels, enlarged twice, 8 to a place"


def test_the_start_is_a_pipeline_of_the_real_classes_with_the_autoencoder_of_its_latents(root):
    index = json.loads((root / "start" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline" and index["vae"] == [None, None]
    assert index["tokenizer"][1].startswith("CLIPTokenizer") and index["text_encoder"][1] == "CLIPTextModel"
    assert index["unet"][1] == "UNet2DConditionModel"
    prior = load_prior(root / "start")
    assert isinstance(prior, LatentPrior) and isinstance(prior.autoencoder, TAEF2) and prior.takes_words
    samples = list(read_corrupted(root / "latents"))[:2]
    z = torch.stack([s.z.float() for s in samples])
    code = TAEF2.load(root / "code.safetensors")
    held = json.loads((root / "latents" / "autoencoder.json").read_text())
    mean, std = (torch.tensor(held[k])[:, None, None] for k in ("mean", "std"))
    assert torch.allclose(prior.decode(z), code.decode(mean + std * z), atol=2e-3)
    tokenizer = words_of(prior).plain.tokenizer
    assert tokenizer.tokenize("the red") == ["th", "e</w>", "red</w>"], "merged as the file says"
    with pytest.raises(AmbientSolveError, match="takes 16") as error:
        prior.check_condition("a" * 20)
    assert one_sentence(error)


def test_a_run_that_was_cut_off_resumes_bit_for_bit_and_the_text_encoder_learns(root, tmp_path, capsys):
    whole = run(root, tmp_path / "whole")
    run(root, tmp_path / "cut", images=4 * 4)
    again = run(root, tmp_path / "cut")
    parts = ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")
    for part in parts:
        assert (whole / part).read_bytes() == (again / part).read_bytes(), part
        begin, end = load_file(root / "start" / part), load_file(whole / part)
        assert any(not torch.equal(begin[k].half(), end[k]) for k in end), f"{part} has learned"
    frozen = run(root, tmp_path / "frozen", tuning={"words": False}, images=4)
    begin, end = load_file(root / "start" / parts[1]), load_file(frozen / parts[1])
    assert all(torch.equal(begin[k].half(), end[k]) for k in end), "control: frozen, to the bit"
    rows = [json.loads(line) for line in (tmp_path / "whole" / "stats.jsonl").read_text().splitlines()]
    assert len(rows) == STEPS and all(np.isfinite(row["loss"]) for row in rows)


def test_words_are_learned_and_the_finished_folder_is_a_prior_with_card_and_sheet(root, tmp_path):
    (root / "toy").mkdir()
    rows = []
    for i in range(12):
        z = MEANS[i % 2][1] + 0.1 * randn(32, 4, 4, seed=i)
        save_file({"z": z.half()}, root / "toy" / f"{i}.safetensors")
        rows.append({"file": f"{i}.safetensors", "sigma_noise": 0.0, "caption": MEANS[i % 2][0]})
    (root / "toy" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quick = {"images": 4 * 50, "lr": 1e-2, "level_mean": 1.5, "level_std": 0.3, "ema": {"half_life": 20}}
    quick |= {"sources": [{**SETTINGS["sources"][0], "path": "corrupted:toy"}]}
    folder = run(root, tmp_path / "out", **quick, stats_every=25, checkpoint_every=25, validate_every=50)
    prior, z = load_prior(folder), 5.0 * randn(8, 32, 4, 4)
    for own, mean in MEANS:
        found = prior.denoise(z, 5.0, own)
        near, far = float((found - mean).square().mean()), float((found + mean).square().mean())
        assert near < 0.8 * far, f"{own}: {near}, and {far} from the other"
        assert not torch.equal(prior.denoise(z, 5.0, Prompt(own, guidance=2.0)), found)
    rows = [json.loads(line) for line in (tmp_path / "out" / "stats.jsonl").read_text().splitlines()]
    assert rows[-1]["held out"], "of pictures whose words are not asked for"
    card = (folder / "README.md").read_text()
    assert "# tiny words" in card and '"kind": "captioned"' in card and "| corrupted:toy | 1.0 |" in card
    made = sheet(folder, ("a red thing", ""), each=2, steps=4)
    assert made == folder / "samples.png" and Image.open(made).width > 256
    op = operators.inpaint_random((3, 32, 32), missing=0.5, sigma=0.1)
    result = Solver(prior, "latino", steps=2).solve(op(rand(1, 3, 32, 32)), op, cond="a red thing", progress=False)
    assert result.samples.isfinite().all()


def test_the_shipped_configuration_and_the_door_are_read(root, tmp_path, capsys, monkeypatch):
    config = read_config(["--config", str(TRAINERS / "configs" / "words_latent.yaml"), "--out", str(tmp_path)])
    assert config.objective.worded and config.tuning.words and config.crop == 128
    monkeypatch.syspath_prepend(str(TRAINERS))
    door = importlib.import_module("words")
    given = ["start", "--latents", str(root / "latents"), "--vocabulary", str(root / "merges.txt")]
    given += ["--out", str(tmp_path / "pipeline"), "--widths", "8", "16", "--heads", "8", "--text-width", "16"]
    monkeypatch.setattr(sys, "argv", ["words.py", *given, "--text-layers", "1", "--tokens", "16"])
    door.main()
    same = ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")
    assert all((tmp_path / "pipeline" / f).read_bytes() == (root / "start" / f).read_bytes() for f in same), "by seed"
    with pytest.raises(SystemExit) as stop:
        door.main()
    assert stop.value.code == 2 and "choose another folder" in capsys.readouterr().err


def test_what_cannot_be_trained_is_refused_in_a_sentence(root, tmp_path):
    pack, code = str(root / "pack.npz"), root / "code.safetensors"
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    (tmp_path / "bad.txt").write_text("one token\nthree to kens\nx\n")
    plain = tmp_path / "plain"
    encode_pictures(pack, code, plain, enlarge=2)
    unworded = {"sources": [{"path": f"corrupted:{plain}", "held_out": 2}]}
    cases = [
        (lambda: encode_pictures(pack, code, tmp_path / "a", captions=str(tmp_path / "three.txt")), "3 lines"),
        (lambda: encode_pictures(pack, code, tmp_path / "a", captions=str(tmp_path / "none.txt")), "cannot be read"),
        (lambda: encode_pictures(pack, code, tmp_path / "a", captions=str(root / "classes.txt"), template="a"), "{}"),
        (lambda: encode_pictures(pack, code, tmp_path / "a", enlarge=9), "1 to 8"),
        (lambda: start_pipeline(root / "latents", tmp_path / "bad.txt", tmp_path / "b"), "two tokens"),
        (lambda: start_pipeline(root / "latents", tmp_path / "none.gz", tmp_path / "b"), "cannot be read"),
        (lambda: begun(root, tmp_path / "c", widths=(7, 9)), "no network can be made"),
        (lambda: begun(root, root / "start"), "choose another folder"),
        (lambda: run(root, tmp_path / "d", **unworded), "samples without captions"),
        (lambda: sheet(root / "start", ("a " * 30,)), "shorten it"),
    ]
    for call, said in cases:
        with pytest.raises(AmbientSolveError, match=said) as error:
            call()
        assert one_sentence(error), said
    manifest = root / "latents" / "manifest.jsonl"
    row = json.loads(manifest.read_text().splitlines()[0])
    for wrong in (3, "a\x1b[31m", "a" * 1001):
        (tmp_path / "wrong").mkdir(exist_ok=True)
        (tmp_path / "wrong" / row["file"]).write_bytes((root / "latents" / row["file"]).read_bytes())
        (tmp_path / "wrong" / "manifest.jsonl").write_text(json.dumps({**row, "caption": wrong}) + "\n")
        with pytest.raises(AmbientSolveError, match="printable characters") as error:
            list(read_corrupted(tmp_path / "wrong"))
        assert one_sentence(error)
