"""A run measures itself on a twentieth of its data, unless its settings say otherwise."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve.cli.train import export_command
from ambient_solve.data.corruption import Corruption, write_corrupted
from ambient_solve.data.damages import Noise
from ambient_solve.training.config import Config, Source
from ambient_solve.training.sources import read_data
from helpers import one_sentence
from test_train_held_out import scenes
from test_train_safety import command, root, trainers  # noqa: F401

WHOLE = Corruption(clean_share=1.0)


def saved(folder, pictures):
    folder.mkdir()
    for name, picture in pictures:
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{name}.png")


def read(tmp_path, *paths: str, **settings):
    sources = tuple(path if isinstance(path, Source) else Source(path) for path in paths)
    settings = {"crop": 16, "duplicates": False, "corruption": WHOLE, **settings}
    return read_data(Config(out=str(tmp_path / "out"), data_root=str(tmp_path), sources=sources, **settings), False)


def bytes_of(pictures) -> set[bytes]:
    return {p.contiguous().numpy().tobytes() for p in pictures}


def learned(data) -> set[bytes]:
    return bytes_of(((s.z.float() + 1) * 127.5).round().to(torch.uint8) for s in data.samples)


def test_a_twentieth_is_held_out_by_what_is_in_the_pictures(tmp_path):
    pictures = scenes(60)
    saved(tmp_path / "one", pictures)
    data = read(tmp_path, "one")
    apart = bytes_of(data.held_out)
    assert len(apart) == 3 and len(data.samples) == 57 and not apart & learned(data)
    assert apart | learned(data) == bytes_of(p for _, p in pictures)
    # Other names in another order, another seed, shuffled: the same ones.
    saved(tmp_path / "two", [(f"{99 - k}", p) for k, (_, p) in enumerate(pictures)])
    assert bytes_of(read(tmp_path, "two").held_out) == apart
    assert bytes_of(read(tmp_path, Source("one", shuffle=True), seed=5).held_out) == apart
    # Other pictures beside them: those held out before are the first to be held out again.
    saved(tmp_path / "more", pictures + scenes(60, seed=1))
    more = bytes_of(read(tmp_path, "more").held_out)
    assert len(more) == 6 and more - bytes_of(p for _, p in scenes(60, seed=1)) <= apart
    assert len(read(tmp_path, "one", held_out=0.5).held_out) == 30


@pytest.mark.parametrize(
    "settings", [{"held_out": 0.0}, {"validate_every": 0}, {"paths": (Source("one", held_out=2), Source("two"))}]
)
def test_what_the_settings_say_counts(tmp_path, settings):
    saved(tmp_path / "one", scenes(30))
    saved(tmp_path / "two", scenes(30, seed=1))
    paths = settings.pop("paths", ("one", "two"))
    found = read(tmp_path, *paths, **settings)
    number = 2 if isinstance(paths[0], Source) else 0
    assert len(found.held_out) == number and len(found.samples) == 60 - number
    assert len(read(tmp_path, "one", "two").held_out) == 4, "control: nothing is said"


def test_a_picture_with_a_near_copy_is_not_held_out(tmp_path):
    pictures = scenes(40)
    saved(tmp_path / "one", pictures)
    first = bytes_of(read(tmp_path, "one").held_out)
    (name, copied), *_ = [(n, p) for n, p in pictures if bytes_of([p]) <= first]
    small = Image.fromarray(copied.permute(1, 2, 0).numpy()).resize((40, 40), Image.Resampling.LANCZOS)
    (tmp_path / "other").mkdir()
    small.save(tmp_path / "other" / "small.jpg", quality=80)
    saved(tmp_path / "other/more", scenes(4, seed=2))
    both = read(tmp_path, "one", "other")
    found = bytes_of(both.held_out)
    assert bytes_of([copied]) - found, f"{name} is trained on in another size"
    assert len(found) == 2 and first - bytes_of([copied]) < found, "five pictures are too few to hold one out"
    # Of pictures that all have copies none is held out, and the run says so.
    saved(tmp_path / "twice", [(f"{n}{k}", p) for k in "ab" for n, p in scenes(10)])
    twice = read(tmp_path, "twice")
    assert not twice.held_out and "Nothing is held out" in " ".join(twice.notes)


def test_one_picture_at_two_scales_is_held_out_at_both(tmp_path):
    saved(tmp_path / "one", scenes(20))
    data = read(tmp_path, Source("one"), Source("one", shrink=2))
    large, small = data.held_out
    halved = torch.nn.functional.avg_pool2d(large.float(), 2)
    assert (halved - small.float()).abs().mean() < 3 and len(data.samples) == 38


def test_of_damaged_data_a_share_of_the_clean_and_of_the_others_is_held_out(tmp_path):
    write_corrupted(scenes(60), 60, Corruption(3, 0.2, (Noise(sigma=0.2),)), tmp_path / "set")
    data = read(tmp_path, "corrupted:set")
    assert (len(data.held_out), len(data.held_out_noisy), len(data.samples)) == (1, 2, 57)
    assert all(s.damage == "noise" for s in data.held_out_noisy)
    few = read(tmp_path, replace(Source("corrupted:set"), limit=9))
    assert len(few.samples) == 9 and "Nothing is held out" in " ".join(few.notes)


def test_a_run_says_in_log_card_and_folder_what_it_held_out(root, command, tmp_path):  # noqa: F811
    saved(root / "sixty", scenes(60))
    own = {"images": 8, "validate_every": 2, "sources": [{"path": "sixty"}]}
    code, _, error = command(own, "--out", str(tmp_path / "run"))
    assert code == 0 and error.count("Held out to measure on: 3 of 60 pictures, by a hash") == 1
    card, stored = (tmp_path / "run/prior/README.md").read_text(), json.loads((tmp_path / "run/data.json").read_text())
    assert "| sixty | 1.0 | 1 | 3 | not stated |" in card and "Held out are 5 % of each source" in card
    assert '"held_out": 0.05' in card and "## Denoising of held-out clean pictures" in card
    assert len(stored[0]["held out"]) == 3 and len(stored[0]["pictures"]) == 57
    rows = [json.loads(line) for line in (tmp_path / "run/stats.jsonl").read_text().splitlines()]
    assert "held out" in rows[-1]
    code, _, error = command(own, "--out", str(tmp_path / "all"), "--held-out", "0")
    assert code == 0 and "Held out" not in error and "Training on 60 pictures: 30 clean, 30 noise." in error
    assert "| sixty | 1.0 | 1 | 0 | not stated |" in (tmp_path / "all/prior/README.md").read_text()
    code, _, error = command(own, "--out", str(tmp_path / "run"), "--held-out", "0")
    assert code == 2 and "held_out was 0.05 and is 0.0" in error
    code, _, error = command(own, "--out", str(tmp_path / "many"), "--held-out", "20")
    assert code == 2 and one_sentence(error) and "is no share" in error


def test_a_run_of_before_goes_on_and_is_exported_as_it_was(root, command, tmp_path):  # noqa: F811
    """It knew no share: the new default would hold out pictures that it was trained on."""
    own, out = (
        {"images": 8, "checkpoint_every": 1, "sources": [{"path": "more"}], "validate_every": 2},
        tmp_path / "old",
    )
    assert command(own, "--out", str(out), "--held-out", "0")[0] == 0
    record = json.loads((out / "run.json").read_text())
    assert record.pop("held_out") == 0
    (out / "run.json").write_text(json.dumps(record, indent=2))
    (out / "data.json").unlink()
    code, _, error = command(own, "--out", str(out))
    assert code == 2 and "held_out was 0.0 and is 0.05" in error
    export_command(["--config", str(root / "case.yaml"), "--data-root", str(root), "--out", str(out)])
    assert "| more | 1.0 | 1 | 0 | not stated |" in (out / "prior/README.md").read_text()
    assert command(own, "--out", str(out), "--held-out", "0")[0] == 0
