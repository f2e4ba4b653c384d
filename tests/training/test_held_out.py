"""What is held out is not learned from: pictures of a source, clean pictures of an annotator, volumes of scans."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.mri.prepare import Preparation, prepare
from helpers import one_sentence, rand
from test_mri import made

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

TRAINERS = Path(__file__).resolve().parents[2] / "trainers"
PICTURES = 10


@pytest.fixture
def trainers(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINERS))
    return importlib.import_module


@pytest.fixture
def root(tmp_path) -> Path:
    """Pictures of one color each, but for the last pixel: the color is the number of the picture."""
    (tmp_path / "pictures").mkdir()
    for i in range(PICTURES):
        picture = Image.new("RGB", (16, 16), (10 * i, 10 * i, 10 * i))
        picture.putpixel((15, 15), (255, 255, 255))
        picture.save(tmp_path / f"pictures/{i:02d}.png")
    return tmp_path


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("limit", [0, 3, PICTURES - 2, PICTURES - 1, PICTURES, 50])
def test_no_limit_makes_a_source_train_on_its_held_out_pictures(trainers, root, limit, shuffle):
    config = trainers("ambient_solve.training.config")
    source = config.Source("pictures", held_out=2, limit=limit, shuffle=shuffle)
    given = config.Config(out=str(root / "run"), data_root=str(root), sources=(source,), crop=16, duplicates=False)
    data = trainers("ambient_solve.training.sources").read_data(
        replace(given, corruption=replace(given.corruption, clean_share=1.0)), False
    )
    learned = [round(float((s.z[0, 0, 0].float() + 1) * 127.5)) // 10 for s in data.samples]
    held_out = [int(p[0, 0, 0]) // 10 for p in data.held_out]
    assert len(held_out) == 2 and len(learned) == min(limit or PICTURES, PICTURES - 2)
    assert not set(learned) & set(held_out) and len(set(learned)) == len(learned)
    if not shuffle:  # which pictures are held out does not depend on the limit
        assert held_out == [PICTURES - 2, PICTURES - 1] and learned == list(range(len(learned)))


def annotated() -> list[Sample]:
    kinds = ("clean", "blur", "turned")
    return [Sample(str(i), rand(1, 12, 12, seed=i), damage=kinds[i % 3]) for i in range(60)]


def test_the_denoisers_of_an_annotator_never_see_the_pictures_they_are_compared_on(trainers, tmp_path, monkeypatch):
    """Every one is trained on the rest of the clean pictures, alone or with one damage, and asked about the same."""
    module, calls, samples = trainers("ambient_solve.training.annotate"), {}, annotated()

    def losses(self, learned, held_out, side, folder):
        calls[folder.name] = [{s.name for s in part} for part in (learned, held_out)]
        return np.zeros((len(held_out), self.levels))

    monkeypatch.setattr(module.HeldOutLoss, "_losses", losses)
    module.HeldOutLoss(held_out=0.3).annotate(samples, tmp_path)
    by_kind = {kind: {s.name for s in samples if s.damage == kind} for kind in ("clean", "blur", "turned")}
    assert set(calls) == set(by_kind)
    held_out = calls["clean"][1]
    assert len(held_out) == 6 and held_out < by_kind["clean"]
    for damage, (learned, asked) in calls.items():
        assert asked == held_out and not learned & held_out
        assert learned == (by_kind["clean"] - held_out) | (by_kind[damage] if damage != "clean" else set())


def test_a_classifier_is_asked_about_the_half_that_it_never_saw(trainers, tmp_path, monkeypatch):
    module, fitting, seen = (
        trainers("ambient_solve.training.classifiers"),
        trainers("ambient_solve.training.fitting"),
        {},
    )
    samples, now, look = annotated(), [], module.NoiseClassifier.look

    def fit(self, network, loss, every, folder):
        seen[folder.name] = (set(), set())
        now[:] = [folder.name, 0]
        for step in range(40):
            loss(step)
        now[1] = 1
        network.eval().requires_grad_(False)

    def looked(self, sample, *rest):
        seen[now[0]][now[1]].add(sample.name)
        return look(self, sample, *rest)

    monkeypatch.setattr(fitting.Trained, "fit", fit)
    monkeypatch.setattr(module.NoiseClassifier, "look", looked)
    module.NoiseClassifier(width=8, batch=6, levels=4, draws=1).probability(samples, 8, tmp_path)
    (first, second), names = seen.values(), {s.name for s in samples}
    assert first[1] | second[1] == names and not first[1] & second[1]
    for learned, asked in (first, second):
        assert len(learned) > 20 and not learned & asked


@pytest.mark.parametrize("held_out", [(), ("b",)])
def test_scans_that_are_held_out_are_not_prepared(tmp_path, held_out):
    for name in "abc":
        (tmp_path / "scans" / name).mkdir(parents=True)
        np.save(tmp_path / f"scans/{name}/{name}.npy", made(ord(name))[0].kspace.numpy())
    settings = Preparation(size=32, acs=8, acceleration=3.0, iterations=2)
    assert prepare([tmp_path / "scans"], tmp_path / "data", settings, held_out=held_out) == 3 - len(held_out)
    rows = [json.loads(row) for row in (tmp_path / "data/manifest.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [f"{n}/{n}.npy/0" for n in "abc" if n not in held_out]


def test_a_single_scan_that_is_held_out_is_not_prepared(tmp_path):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", made(ord(name))[0].kspace.numpy())
    settings = Preparation(size=32, acs=8, acceleration=3.0, iterations=2)
    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    assert prepare(files, tmp_path / "one", settings, held_out=("b",)) == 1
    with pytest.raises(AmbientSolveError, match="no slice is left"):
        prepare(files[1:], tmp_path / "none", settings, held_out=("b",))


def test_a_picture_of_a_folder_that_is_held_out_is_not_prepared(tmp_path):
    """Each is a volume of its own."""
    (tmp_path / "heads").mkdir()
    for name in "ab":
        Image.fromarray((255 * rand(40, 40)).byte().numpy()).save(tmp_path / f"heads/{name}.png")
    settings = Preparation(size=32, acs=8, acceleration=3.0, iterations=2)
    assert prepare([tmp_path / "heads"], tmp_path / "data", settings, held_out=("b",)) == 1
    assert json.loads((tmp_path / "data/manifest.jsonl").read_text())["name"].startswith("a")


@pytest.mark.parametrize("name", ["b.npy", "bb", "scans/b"])
def test_a_volume_to_hold_out_that_is_not_there_is_refused(tmp_path, name):
    """It may be one that is, spelled otherwise: it would be learned from."""
    (tmp_path / "scans").mkdir()
    for scan in "ab":
        np.save(tmp_path / f"scans/{scan}.npy", made(ord(scan))[0].kspace.numpy())
    with pytest.raises(AmbientSolveError, match=f"no volume {name!r}.*b") as error:
        prepare([tmp_path / "scans"], tmp_path / "data", Preparation(size=32), held_out=(name,))
    assert one_sentence(error) and not (tmp_path / "data").exists()
