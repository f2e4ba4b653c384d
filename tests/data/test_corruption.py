"""Damage is done once, kept with all that is known of it, and cannot be averaged away."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ambient_solve.data.corruption import (
    MANIFEST,
    RUN,
    Corruption,
    corrupt,
    fingerprint,
    read_corrupted,
    write_corrupted,
)
from ambient_solve.data.damages import JpegBlocks, Noise, RandomMask
from ambient_solve.data.frozen import freeze, hide
from ambient_solve.data.loader import Levels, Loader
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from helpers import one_sentence

LEVEL = ("sigma_noise", "sigma_min", "sigma_max")
LEVELS = Levels(-0.9, 1.6, 0.01, 80.0)
BUFFER = (4 / 3) ** 0.5


def pictures(n: int, size: int = 24, channels: int = 3, seed: int = 0) -> list[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shape = (n, channels, size, size)
    return [(f"{i}.png", p) for i, p in enumerate(torch.randint(0, 256, shape, generator=generator).to(torch.uint8))]


def noisy(sigma: float = 0.2, clean: float = 0.1, seed: int = 0) -> Corruption:
    return Corruption(seed, clean, (Noise(sigma=sigma),))


def noise(index: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.from_numpy(noisy(seed=seed).random(index).standard_normal(shape, dtype=np.float32))


# Damage ---


def test_damage_is_a_function_of_seed_and_index():
    data, settings = pictures(40), noisy(0.2, 0.25, seed=5)
    first, again = (list(corrupt(data, 40, settings)) for _ in range(2))
    assert fingerprint(first) == fingerprint(again)
    assert fingerprint(first) != fingerprint(corrupt(data, 40, noisy(0.2, 0.25, seed=6)))
    # The noise of one picture alone, whatever was read before: what is stored is z0 + sigma_n noise(i), rounded once.
    for i in (39, 0, 17):
        z0 = data[i][1].float() / 127.5 - 1
        e = noise(i, tuple(z0.shape), seed=5) if first[i].sigma_noise else torch.zeros_like(z0)
        assert torch.equal(first[i].z, (z0 + 0.2 * e).half())


def test_damage_is_the_same_in_another_process_and_in_earlier_versions():
    code = (
        "import torch; from ambient_solve.data.corruption import *;"
        "d = [(str(i), torch.full((3, 8, 8), 7 * i, dtype=torch.uint8)) for i in range(20)];"
        "print(fingerprint(corrupt(d, 20, Corruption(2, 0.1, (Noise(sigma=0.3),)))))"
    )
    data = [(str(i), torch.full((3, 8, 8), 7 * i, dtype=torch.uint8)) for i in range(20)]
    here = fingerprint(corrupt(data, 20, noisy(0.3, 0.1, seed=2)))
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    # The card of a prior holds the hash of its data: another version must find the same.
    assert there.strip() == here == "6b862bc810a6ce32"


@pytest.mark.parametrize(("total", "share"), [(40, 0.1), (40, 0.0), (40, 1.0), (37, 0.33), (3, 0.1)])
def test_number_of_clean_pictures_is_exact(total, share):
    samples = list(corrupt(pictures(total, 8), total, noisy(clean=share)))
    assert sum(s.sigma_noise == 0 for s in samples) == round(share * total)
    for (_, picture), sample in zip(pictures(total, 8), samples, strict=True):
        kept = torch.equal(sample.z, (picture.float() / 127.5 - 1).half())
        assert kept == (sample.sigma_noise == 0)
        assert sample.z.dtype == torch.float16


def test_noise_has_the_level_that_is_stated():
    data = [(str(i), torch.full((3, 32, 32), 128, dtype=torch.uint8)) for i in range(40)]
    z = torch.stack([s.z.float() for s in corrupt(data, 40, noisy(clean=0.0))]) - (128 / 127.5 - 1)
    # 122880 normal numbers: the deviation has a relative standard error of .002, the mean one of .2 / 350.
    assert abs(float(z.std()) / 0.2 - 1) < 0.01 and abs(float(z.mean())) < 0.003
    assert abs(float(torch.corrcoef(z.flatten(1))[0, 1:].mean())) < 0.01


def test_views_of_a_picture_share_its_noise_so_that_averaging_them_reveals_nothing():
    """Undo crop and flip of a thousand training steps with one picture: every step shows the same numbers."""
    size, crop = 20, 16
    grey = [("one", torch.full((1, size, size), 100, dtype=torch.uint8))]
    stored = next(iter(corrupt(grey, 1, noisy(clean=0.0))))
    spec = Levels(0.0, 1.0, 0.3, 80.0)
    loader = Loader([stored], np.ones(1), spec, crop=crop, buffer=BUFFER, batch=50, seed=0)
    places = [(i, j, flip) for i in range(5) for j in range(5) for flip in (False, True)]
    crops = [stored.z.float()[:, i : i + crop, j : j + crop] for i, j, _ in places]
    known = torch.stack([c.flip(-1) if place[2] else c for c, place in zip(crops, places, strict=True)])
    total, count = torch.zeros(2, size, size)
    for step in range(20):
        for view in loader(step)[0].z:
            ((found,),) = (known == view).flatten(1).all(1).nonzero().tolist()
            i, j, flip = places[found]
            total[i : i + crop, j : j + crop] += view[0].flip(-1) if flip else view[0]
            count[i : i + crop, j : j + crop] += 1
    left = (total / count)[count > 0] - (100 / 127.5 - 1)
    assert count.max() == 1000 and abs(float(left.std()) - 0.2) < 0.02
    # Control: fresh noise at each training step would average away.
    fresh = torch.stack([noise(i, (size, size)) for i in range(1000)]).mean(0)
    assert float(0.2 * fresh.std()) < 0.02


def test_clean_picture_of_a_damaged_sample_is_kept_nowhere(tmp_path):
    write_corrupted(pictures(4), 4, noisy(0.5, 0.0), tmp_path / "set")
    stored = b"".join(p.read_bytes() for p in (tmp_path / "set").iterdir())
    for _, picture in pictures(4):
        clean = (picture.float() / 127.5 - 1).half()
        assert clean.numpy().tobytes() not in stored and picture.numpy().tobytes() not in stored


MIXTURE = Corruption(3, 0.25, (Noise(sigma=0.3), JpegBlocks(quality=20, sigma_min=1.5, share=2), RandomMask(sigma=0.1)))


def test_kinds_of_a_mixture_get_their_shares():
    plan = MIXTURE.plan(1000)
    names = [d.name if d else "clean" for d in plan]
    assert [names.count(n) for n in ("clean", "noise", "jpeg", "random-mask")] == [250, 188, 374, 188]
    assert {i for i, n in enumerate(names) if n == "clean"} == noisy(clean=0.25, seed=3).clean_indices(1000)
    # Which picture gets which kind is random: neighbours agree no more often than chance, .282.
    assert 0.2 < np.mean([a == b for a, b in zip(names, names[1:], strict=False)]) < 0.37
    assert plan != Corruption(4, 0.25, MIXTURE.damages).plan(1000)


# Manifest ---


def test_manifest_round_trip(tmp_path):
    samples = list(corrupt(pictures(12), 12, MIXTURE))
    assert write_corrupted(pictures(12), 12, MIXTURE, tmp_path / "set") == 12
    back = list(read_corrupted(tmp_path / "set"))
    assert fingerprint(back) == fingerprint(samples)
    for a, b in zip(samples, back, strict=True):
        assert [getattr(a, k) for k in ("name", "damage", *LEVEL)] == [
            getattr(b, k) for k in ("name", "damage", *LEVEL)
        ]
        assert torch.equal(a.z, b.z) and (b.mask is None if a.mask is None else torch.equal(a.mask, b.mask))
    rows = [json.loads(line) for line in (tmp_path / "set" / MANIFEST).read_text().splitlines()]
    assert [(row["index"], row["seed"]) for row in rows] == [(i, 3) for i in range(12)]
    assert {row["damage"]: row["parameters"] for row in rows} == {
        "clean": {},
        "noise": {"sigma": 0.3, "sigma_01": 0.15},
        "jpeg": {"sigma_min": 1.5, "sigma_min_01": 0.75, "quality": 20},
        "random-mask": {"sigma": 0.1, "sigma_01": 0.05, "missing": 0.5},
    }
    with pytest.raises(AmbientSolveError, match="already holds"):
        write_corrupted(pictures(12), 12, MIXTURE, tmp_path / "set")


def test_interrupted_write_goes_on_where_it_was(tmp_path):
    folder, given = tmp_path / "set", []

    def breaks(n: int):
        yield from pictures(8)[:n]
        raise KeyboardInterrupt

    def watched():
        for name, picture in pictures(8):
            given.append(name)
            yield name, picture

    with pytest.raises(KeyboardInterrupt):
        write_corrupted(breaks(5), 8, MIXTURE, folder)
    with pytest.raises(AmbientSolveError, match="interrupted") as error:
        list(read_corrupted(folder))
    assert one_sentence(error)
    # Killed in the middle of a row, of a file, and with a finished file lost.
    with (folder / (MANIFEST + ".part")).open("a") as rows:
        rows.write('{"file": "0000')
    (folder / "000005.safetensors.part").write_bytes(b"half a file")
    (folder / "000004.safetensors").unlink()
    kept = {i: (folder / f"{i:06d}.safetensors").stat() for i in range(4)}
    write_corrupted(watched(), 8, MIXTURE, folder)
    assert fingerprint(read_corrupted(folder)) == fingerprint(corrupt(pictures(8), 8, MIXTURE))
    assert all((folder / f"{i:06d}.safetensors").stat().st_mtime_ns == s.st_mtime_ns for i, s in kept.items())
    names = {p.name for p in folder.iterdir()}
    assert names == {MANIFEST, RUN, *(f"{i:06d}.safetensors" for i in range(8))} and len(given) == 8


def test_interrupted_write_does_not_go_on_with_something_else(tmp_path):
    folder = tmp_path / "set"
    with pytest.raises(AmbientSolveError, match="but 0 came"):
        write_corrupted([], 8, noisy(), folder)  # nothing is finished: other settings may begin here
    with pytest.raises(AmbientSolveError, match="8 pictures were expected, but 5 came"):
        write_corrupted(pictures(5), 8, MIXTURE, folder)
    for wrong, match in (
        ((pictures(8), 8, noisy()), "other settings"),
        ((pictures(9), 9, MIXTURE), "other settings"),
        (([("new.png", p) for _, p in pictures(8)], 8, MIXTURE), "its picture 0 was 0.png, not new.png"),
        ((pictures(9), 8, MIXTURE), "more came"),
    ):
        with pytest.raises(AmbientSolveError, match=match) as error:
            write_corrupted(*wrong, folder)
        assert one_sentence(error) and not (folder / MANIFEST).exists()
    write_corrupted(pictures(8), 8, MIXTURE, folder)


def test_manifest_of_ones_own_over_noisy_pictures(tmp_path):
    z = torch.randn(1, 30, 20)
    save_file({"z": z}, tmp_path / "scan.safetensors")
    (tmp_path / MANIFEST).write_text('{"file": "scan.safetensors", "sigma_noise": 0.07}\n\n')
    (sample,) = read_corrupted(tmp_path)
    assert sample.name == "scan.safetensors" and sample.sigma_noise == 0.07 and torch.equal(sample.z, z.half())


def test_manifest_of_ones_own_over_masked_pictures(tmp_path):
    """(y, mask) pairs, a mask beside its picture, and rows that say where a sample may be used."""
    z, mask = torch.randn(3, 20, 30), torch.rand(1, 20, 30) > 0.4
    save_file({"z": z, "mask": mask[0]}, tmp_path / "pair.safetensors")
    painted = Image.fromarray(np.where(mask[0].numpy(), 0, 255).astype(np.uint8))
    painted.save(tmp_path / "missing.png")
    brush = Image.new("RGBA", painted.size, (255, 255, 255, 0))
    brush.putalpha(painted)
    brush.save(tmp_path / "brush.png")
    photo = torch.randint(0, 256, (20, 30, 3), dtype=torch.uint8)
    Image.fromarray(photo.numpy()).save(tmp_path / "photo.png")
    rows = [
        {"file": "pair.safetensors", "sigma_noise": 0.1},
        {"file": "photo.png", "sigma_noise": 0, "mask": "missing.png", "damage": "scratches"},
        {"file": "photo.png", "sigma_noise": 0, "mask": "brush.png"},
        {"file": "photo.png", "sigma_noise": 0, "sigma_min": math.inf, "sigma_max": 0.3, "name": "crop"},
    ]
    (tmp_path / MANIFEST).write_text("".join(json.dumps(row) + "\n" for row in rows))
    pair, scratched, painted, crop = read_corrupted(tmp_path)
    assert torch.equal(pair.z, torch.where(mask, z.half(), 0)) and torch.equal(pair.mask, mask.to(torch.uint8))
    whole = photo.permute(2, 0, 1).float() / 127.5 - 1
    for sample in (scratched, painted):
        assert torch.equal(sample.mask, pair.mask) and torch.equal(sample.z, torch.where(mask, whole.half(), 0))
    assert (pair.damage, scratched.damage, crop.damage) == ("damaged", "scratches", "damaged")
    assert (crop.name, crop.sigma_min, crop.sigma_max, crop.mask) == ("crop", math.inf, 0.3, None)
    assert next(read_corrupted(tmp_path, channels=3)).z.shape[0] == 3
    (tmp_path / MANIFEST).write_text('{"file": "photo.png", "sigma_noise": 0}\n')
    (grey,) = read_corrupted(tmp_path, channels=1)
    assert grey.z.shape == (1, 20, 30) and grey.damage == "clean"


def test_manifest_of_ones_own_over_coefficients_and_k_space(tmp_path):
    z, mask = torch.randn(2, 8, 8), (torch.rand(2, 8, 8) > 0.5).to(torch.uint8)
    signs, maps = torch.randint(0, 2, (2, 8, 8)) * 2 - 1, torch.randn(4, 8, 8, dtype=torch.complex64)
    save_file({"z": z, "mask": mask, "signs": signs}, tmp_path / "sensed.safetensors")
    save_file({"z": z, "mask": mask[:1].clone(), "maps": maps}, tmp_path / "scan.safetensors")
    names = ("sensed", "scan")
    (tmp_path / MANIFEST).write_text("".join(f'{{"file": "{n}.safetensors", "sigma_noise": 0}}\n' for n in names))
    sensed, scan = read_corrupted(tmp_path)
    # The mask is not one of pixels: z stays whole.
    assert torch.equal(sensed.z, z.half()) and torch.equal(scan.z, z.half())
    assert torch.equal(sensed.signs, signs.to(torch.int8)) and sensed.maps is None
    assert torch.equal(scan.maps, maps) and scan.signs is None and torch.equal(scan.mask, mask[:1])


@pytest.mark.parametrize(
    "line",
    [
        '{"file": "z.safetensors"}',
        '{"file": "z.safetensors", "sigma_noise": -0.1}',
        '{"file": "z.safetensors", "sigma_noise": NaN}',
        '{"file": "z.safetensors", "sigma_noise": "a lot"}',
        '{"file": "absent.safetensors", "sigma_noise": 0.1}',
        '{"file": "other.safetensors", "sigma_noise": 0.1}',
        '{"file": "flat.safetensors", "sigma_noise": 0.1}',
        '{"file": "broken.safetensors", "sigma_noise": 0.1}',
        '{"file": "z.safetensors", "sigma_noise": 0, "sigma_min": -1}',
        '{"file": "z.safetensors", "sigma_noise": 0, "sigma_max": NaN}',
        '{"file": "z.safetensors", "sigma_noise": 0, "mask": "absent.png"}',
        '{"file": "z.safetensors", "sigma_noise": 0, "mask": "wide.png"}',
        '{"file": "text.png", "sigma_noise": 0}',
        '{"file": "nan.safetensors", "sigma_noise": 0}',
        '{"file": "grey-mask.safetensors", "sigma_noise": 0}',
        '{"file": "blind.safetensors", "sigma_noise": 0}',
        '{"file": "zeros.safetensors", "sigma_noise": 0}',
        '{"file": "alone.safetensors", "sigma_noise": 0}',
        '{"file": "real.safetensors", "sigma_noise": 0}',
        '["z.safetensors", 0.1]',
        "z.safetensors 0.1",
    ],
)
def test_bad_manifest_line_is_named(tmp_path, line):
    save_file({"z": torch.zeros(1, 8, 8)}, tmp_path / "z.safetensors")
    save_file({"picture": torch.zeros(1, 8, 8)}, tmp_path / "other.safetensors")
    save_file({"z": torch.zeros(8, 8)}, tmp_path / "flat.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not a safetensors file")
    z, ones = torch.zeros(2, 8, 8), torch.ones(1, 8, 8)
    for name, tensors in {
        "nan": {"z": z / 0},
        "grey-mask": {"z": z, "mask": ones / 2},
        "blind": {"z": z, "mask": 0 * ones},
        "zeros": {"z": z, "mask": ones, "signs": z.clone()},
        "alone": {"z": z, "signs": ones.expand(2, 8, 8).contiguous()},
        "real": {"z": z, "mask": ones, "maps": ones.clone()},
    }.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    (tmp_path / MANIFEST).write_text('{"file": "z.safetensors", "sigma_noise": 0}\n' + line + "\n")
    with pytest.raises(AmbientSolveError, match="line 2") as error:
        list(read_corrupted(tmp_path))
    assert one_sentence(error)


@pytest.mark.parametrize(
    "bad",
    [{"clean_share": 1.1}, {"seed": -1}, {"seed": 0.5}, {"damages": ()}, {"damages": Noise()}, {"damages": ("noise",)}],
)
def test_bad_corruption_is_refused(bad):
    with pytest.raises(AmbientSolveError, match=next(iter(bad))):
        Corruption(**bad)


# Against memorisation ---


def test_frozen_samples_show_a_clean_picture_at_low_levels_alone():
    samples = list(corrupt(pictures(30), 30, MIXTURE))
    frozen = freeze(samples, 0.5, seed=7, buffer=BUFFER)
    clean = [s for s in samples if s.damage == "clean"]
    kept, noisy_copies = ([s for s in frozen if s.damage == name] for name in ("clean", "frozen"))
    assert len(clean) == len(kept) == len(noisy_copies) == 8 and len(frozen) == 38
    for z0, below, above in zip(clean, kept, noisy_copies, strict=True):
        assert below.z is z0.z and (below.sigma_noise, below.sigma_min) == (0, np.inf)
        assert below.sigma_max == pytest.approx(0.5 * BUFFER) and [getattr(above, k) for k in LEVEL] == [0.5, 0, 0]
        assert abs(float((above.z.float() - z0.z.float()).std()) / 0.5 - 1) < 0.1
    # At every level one of the two, also at the seam, and what is seen above it is always the same noisy copy.
    rule = [[getattr(s, k) for k in LEVEL] for s in (kept[0], noisy_copies[0])]
    for sigma in (0.1, 0.5 * BUFFER, np.nextafter(0.5 * BUFFER, 1), 5.0):
        assert [(sigma > BUFFER * n) & ((sigma > a) | (sigma < b)) for n, a, b in rule] == [
            sigma <= 0.5 * BUFFER,
            sigma > 0.5 * BUFFER,
        ]
    assert fingerprint(freeze(samples, 0.5, seed=7, buffer=BUFFER)) == fingerprint(frozen)
    assert fingerprint(freeze(samples, 0.5, seed=8, buffer=BUFFER)) != fingerprint(frozen)
    (batch, _) = Loader([*kept, *noisy_copies], np.ones(16), LEVELS, crop=16, buffer=BUFFER, batch=64, seed=0)(0)
    assert ((batch.sigma > 0.5 * BUFFER) == (batch.sigma_noise > 0)).all() and 0 < batch.sigma_noise.mean() < 0.5
    for bad in ({"sigma": 0.0}, {"buffer": 0.9}):
        with pytest.raises(AmbientSolveError, match="above 0 and a buffer"):
            freeze(samples, **{"sigma": 0.5, "seed": 0, "buffer": BUFFER, **bad})


def test_hidden_samples_are_never_seen_without_noise():
    samples = list(corrupt(pictures(30), 30, MIXTURE))
    hidden = hide(samples, seed=7)
    for before, after in zip(samples, hidden, strict=True):
        if before.damage != "jpeg":
            assert after is before
            continue
        assert [getattr(after, k) for k in LEVEL] == [1.5, 1.5, 0.0] and after.damage == "jpeg"
        assert abs(float((after.z.float() - before.z.float()).std()) / 1.5 - 1) < 0.1
    both = [Sample("below too", torch.zeros(1, 8, 8).half(), sigma_min=1.0, sigma_max=0.1)]
    assert hide(both, 0) == both and hide(hidden, 0) == hidden
