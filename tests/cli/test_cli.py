"""The command line: what it prints, what it refuses in a sentence, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve import ALGORITHMS, NetworkConfig, NetworkPrior
from ambient_solve.algorithms.auto import CASES, for_scans
from ambient_solve.cli.dispatch import main
from ambient_solve.cli.flags import split_knobs
from ambient_solve.data.corruption import fingerprint, read_corrupted
from ambient_solve.data.damages import DAMAGES as DATA_DAMAGES
from ambient_solve.data.damages import user_knobs
from ambient_solve.knobs import knobs
from ambient_solve.priors.load import embedded_priors


@pytest.fixture(scope="module")
def prior(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prior")
    torch.manual_seed(0)
    NetworkPrior(NetworkConfig(widths=(8, 16), groups=4)).save(folder, card="# tiny\nRandom weights.\n")
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with pictures and masks, the current one."""
    monkeypatch.chdir(tmp_path)
    array = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(array).save("a.png")
    Image.fromarray(array[..., 0]).save("grey.png")
    Image.fromarray(np.dstack([array, array[..., :1]])).save("alpha.png")
    Image.fromarray(array[..., 0].astype(np.uint16) * 257).save("deep.png")
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (67, 101, 3), dtype=np.uint8)).save("odd.png")
    hole = np.zeros((24, 32), np.uint8)
    hole[4:9, 5:12] = 255
    Image.fromarray(hole).save("mask.png")
    Image.fromarray(hole[:9]).save("small-mask.png")
    Image.new("L", (32, 24), 255).save("white.png")
    Image.new("L", (32, 24), 0).save("black.png")
    Path("empty.png").touch()
    Path("text.png").write_text("not a picture")
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = b"IDAT" + zlib.compress(b"\0" * 64)
    bomb += struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    Path("bomb.png").write_bytes(bomb)
    Path("bare").mkdir()
    Path("pickled").mkdir()
    Path("broken").mkdir()
    return tmp_path


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


def restore(capsys, prior: Path, *words: str) -> tuple[int, str, str]:
    fast = ["--steps", "2", "--samples", "2", "--prior", str(prior)]
    return run(capsys, "restore", *words, *(w for w in fast))


INPAINT = ("--task", "inpaint", "--mask", "mask.png")


@pytest.mark.parametrize(
    "words",
    [
        ("a.png", *INPAINT),
        ("odd.png", "--task", "denoise", "--sigma", "0.1"),
        ("deep.png", "--task", "denoise", "--sigma", ".1"),
        ("a.png", "--task", "gaussian-blur", "--width", "1"),
        ("a.png", "--task", "gaussian-blur", "--width", "1", "--boundary", "circular", "--algorithm", "ddnm"),
        ("a.png", "--task", "motion-blur", "--length", "5", "--angle", "-30"),
        ("a.png", "--task", "motion-blur", "--kernel", "mask.png"),
        ("a.png", "--task", "super-resolution", "--factor", "2"),
        ("a.png", "--task", "jpeg", "--quality", "20"),
        ("a.png", *INPAINT, "--algorithm", "proximal", "--lambda", "2", "--zeta=0.5", "--draw"),
        ("a.png", *INPAINT, "--algorithm", "proximal", "--lambda_", "2", "--kernel", "ancestral"),
        ("a.png", *INPAINT, "--algorithm", "pigdm", "--algorithm.width", "2"),
        ("--eta", "0.5", *INPAINT, "a.png"),
    ],
)
def test_restore_writes_pictures(capsys, prior, place, words):
    code, out, err = restore(capsys, prior, *words)
    assert code == 0, err
    name = next(w for w in words if w.endswith(".png") and w != "mask.png").removesuffix(".png")
    assert out.startswith(f"{name}.png: misfit ") and f"restored/{name}" in out
    folder = place / "restored" / name
    assert {"mean.png", "sample-1.png", "std.png", "settings.json"} <= {p.name for p in folder.iterdir()}


def test_knobs_reach_the_algorithm(capsys, prior, place):
    code, _, _ = restore(capsys, prior, "a.png", *INPAINT, "--algorithm", "proximal", "--lambda", "2", "--draw")
    record = json.loads((place / "restored/a/settings.json").read_text())
    assert code == 0 and record["lambda_"] == 2.0 and record["draw"] is True and record["steps"] == 2


def test_conversions_are_said(capsys, prior, place):
    assert "Note: the picture is grey" in restore(capsys, prior, "grey.png", *INPAINT)[1]
    assert "laid over white" in restore(capsys, prior, "alpha.png", *INPAINT)[1]


REFUSED = {
    "missing file": (("gone.png", *INPAINT), "no file gone.png"),
    "not an image": (("text.png", *INPAINT), "not a picture"),
    "empty": (("empty.png", *INPAINT), "0 bytes"),
    "bomb": (("bomb.png", *INPAINT), "million pixels"),
    "no picture": (("--task", "jpeg"), "No picture"),
    "no task": (("a.png",), "No task"),
    "no mask": (("a.png", "--task", "inpaint"), "needs a mask"),
    "mask gone": (("a.png", "--task", "inpaint", "--mask", "gone.png"), "no file gone.png"),
    "mask of another size": (("a.png", "--task", "inpaint", "--mask", "small-mask.png"), "32x9, but a.png is 32x24"),
    "all missing": (("a.png", "--task", "inpaint", "--mask", "white.png"), "every pixel is missing"),
    "nothing missing": (("a.png", "--task", "inpaint", "--mask", "black.png"), "nothing is missing"),
    "unknown algorithm": (("a.png", *INPAINT, "--algorithm", "mmsp"), "Did you mean 'mmps'"),
    "unknown knob": (("a.png", *INPAINT, "--zetta", "1"), "Did you mean --zeta"),
    "unknown option": (("a.png", *INPAINT, "--sampels", "1"), "Did you mean --samples"),
    "knob of another algorithm": (("a.png", *INPAINT, "--zeta", "1"), "belongs to dps, proximal"),
    "knob out of range": (("a.png", *INPAINT, "--eta", "7"), "outside [0.0, 1.0]"),
    "knob no number": (("a.png", *INPAINT, "--eta", "high"), "a number was expected"),
    "algorithm does not fit": (("a.jpg", "--task", "jpeg", "--quality", "5", "--algorithm", "mmps"), "linear operator"),
    "sigma 0": (("a.png", *INPAINT, "--sigma", "0"), "above 0"),
    "sigma negative": (("a.png", *INPAINT, "--sigma", "-1"), "above 0"),
    "denoise without sigma": (("a.png", "--task", "denoise"), "needs the noise level"),
    "no samples": (("a.png", *INPAINT, "--samples", "0"), "at least 1"),
    "unknown task": (("a.png", "--task", "inpant"), "Did you mean 'inpaint'"),
    "option of another task": (("a.png", *INPAINT, "--factor", "2"), "belongs to super-resolution"),
    "jpeg of unknown quality": (("a.png", "--task", "jpeg"), "--quality"),
    "kernel too large": (("a.png", "--task", "gaussian-blur", "--width", "9"), "larger than"),
    "black kernel": (("a.png", "--task", "motion-blur", "--kernel", "black.png"), "black everywhere"),
    "out is a file": (("a.png", *INPAINT, "--out", "mask.png"), "is a file"),
    "out inside a file": (("a.png", *INPAINT, "--out", "mask.png/x"), "is a file"),
    "device": (("a.png", *INPAINT, "--device", "gpu"), "not there"),
    "prior unknown": (("a.png", *INPAINT, "--prior", "photso"), "no prior 'photso'"),
    "prior without weights": (("a.png", *INPAINT, "--prior", "bare"), "holds no weights"),
    "prior is a pickle": (("a.png", *INPAINT, "--prior", "pickled"), "pickle"),
    "prior is broken": (("a.png", *INPAINT, "--prior", "broken"), "not a readable safetensors"),
    "folder without pictures": (("bare", *INPAINT), "holds no picture"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_ends_in_a_sentence(capsys, prior, place, case):
    words, expected = REFUSED[case]
    if case == "algorithm does not fit":
        Image.open("a.png").save("a.jpg")
    for folder in ("bare", "pickled", "broken"):
        (place / folder / "config.json").write_bytes((prior / "config.json").read_bytes())
    (place / "pickled" / "model.pt").write_bytes(b"\x80\x02.")
    (place / "broken" / "model.safetensors").write_bytes(b"\xff" * 64)
    defaults = ["--samples", "1", "--prior", str(prior)]
    for flag in ("--samples", "--prior"):
        if flag in words:
            at = defaults.index(flag)
            del defaults[at : at + 2]
    code, out, err = run(capsys, "restore", *words, *defaults)
    assert code == 2 and expected in err, err
    assert out == "" and "Traceback" not in err and len(err.strip().splitlines()) == 1
    assert not list(place.glob("restored/*/mean.png"))


def test_what_is_cheap_is_checked_before_torch_is_imported(place):
    cases = [
        ("gone.png", *INPAINT, "--steps", "2"),
        ("text.png", *INPAINT),
        ("a.png", *INPAINT, "--factor", "2"),
        ("a.png", *INPAINT, "--out", "mask.png"),
        ("a.png", *INPAINT, "--device", "gpu"),  # control: it takes torch to know the devices
    ]
    code = (
        f"import sys; from ambient_solve.cli.dispatch import main\nfor words in {cases!r}:\n"
        "    print(main(['restore', *words]), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2 False"] * 4 + ["2 True"], done.stderr


def test_a_bad_file_does_not_stop_the_others(capsys, prior, place):
    code, out, err = restore(capsys, prior, "text.png", "a.png", "gone.png", "grey.png", *INPAINT)
    assert code == 2 and "a.png: misfit" in out and "grey.png: misfit" in out
    assert "Not restored: text.png, gone.png." in err


def test_a_second_run_skips_what_is_finished(capsys, prior, place):
    Path("in").mkdir()
    for name in ("a.png", "grey.png"):
        Path(name).rename(Path("in") / name)
    first = restore(capsys, prior, "in", *INPAINT, "--json")
    rows = [json.loads(line) for line in first[1].splitlines()]
    assert first[0] == 0 and [t["state"] for t in rows] == ["restored", "restored"]
    assert all(t["chi2"] > 0 and t["seconds"] > 0 and Path(t["folder"], "mean.png").is_file() for t in rows)
    again = [json.loads(line) for line in restore(capsys, prior, "in", *INPAINT, "--json")[1].splitlines()]
    assert [t["state"] for t in again] == ["skipped", "skipped"] and again[0]["chi2"] == rows[0]["chi2"]


def test_json_tells_failures_too(capsys, prior, place):
    code, out, err = restore(capsys, prior, "text.png", *INPAINT, "--json")
    rows = json.loads(out)
    assert code == 2 and rows["state"] == "failed" and "not a picture" in rows["error"] and rows["chi2"] is None


def test_split_knobs():
    own = ["out", "json", "samples"]
    words = ["a.png", "--out", "x", "--steps", "5", "--json", "--eta=.5", "--draw", "--samples=3", "b.png"]
    assert split_knobs(words, own) == (
        ["a.png", "--out", "x", "--json", "--samples=3", "b.png"],
        {"steps": "5", "eta": ".5", "draw": "true"},
    )


def flat_pictures(n: int) -> None:
    Path("in").mkdir()
    for i in range(n):
        picture = np.full((8, 8, 3), 40 * i, np.uint8)
        picture[-1, -1] = 255  # without any contrast they would be refused
        Image.fromarray(picture).save(f"in/{i}.png")


def test_corrupt_writes_once(capsys, place):
    flat_pictures(5)
    code, out, _ = run(capsys, "corrupt", "in", "damaged", "--sigma", "0.15", "--clean-share", "0.4")
    assert code == 0 and out.splitlines()[0] == "damaged: 5 pictures, 2 clean, 3 noise"
    samples = list(read_corrupted("damaged"))
    assert sorted(s.sigma_noise for s in samples) == [0.0, 0.0, 0.3, 0.3, 0.3]
    assert run(capsys, "corrupt", "in", "again", "--sigma-noise", "0.3", "--clean-share", "0.4")[0] == 0  # as before
    assert fingerprint(read_corrupted("again")) == fingerprint(samples)
    code, _, err = run(capsys, "corrupt", "in", "damaged")
    assert code == 2 and "already holds" in err
    code, _, err = run(capsys, "corrupt", "damaged", "twice")
    assert code == 2 and "is a damaged data set already" in err and not Path("twice").exists()
    Path("bad").mkdir()
    (Path("bad") / "9.png").write_text("no picture")
    code, _, err = run(capsys, "corrupt", "bad", "half")
    assert code == 2 and "not a picture" in err and not Path("half").exists()


def test_corrupt_mixes_kinds_of_damage(capsys, place):
    flat_pictures(6)
    kinds = ("--damage", "jpeg quality=5 sigma_min=1.5 share=2", "--damage", "random-mask missing=.25")
    code, out, _ = run(capsys, "corrupt", "in", "mixed", *kinds, "--clean-share", "0", "--seed", "4")
    assert code == 0 and out.splitlines()[0] == "mixed: 6 pictures, 4 jpeg, 2 random-mask"
    rows = [json.loads(line) for line in Path("mixed/manifest.jsonl").read_text().splitlines()]
    assert {row["damage"]: row["parameters"] for row in rows} == {
        "jpeg": {"sigma_min": 1.5, "sigma_min_01": 0.75, "quality": 5},
        "random-mask": {"sigma": 0.0, "sigma_01": 0.0, "missing": 0.25},
    }
    samples = list(read_corrupted("mixed"))
    assert [(s.sigma_min, s.mask is None) for s in samples if s.damage == "jpeg"] == [(1.5, True)] * 4
    assert [int(s.mask.sum()) for s in samples if s.mask is not None] == [48, 48]


def test_corrupt_goes_on_after_an_interruption(capsys, place, monkeypatch):
    flat_pictures(6)
    words = ("corrupt", "in", "damaged", "--clean-share", "0.5")
    written, replace = [], os.replace

    def interrupted(source: Path, target: Path) -> None:
        written.append(target)
        if len(written) == 5:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", interrupted)
        code, _, err = run(capsys, *words)
    assert code == 130 and "finished is kept" in err and not Path("damaged/manifest.jsonl").exists()
    first = Path("damaged/000000.safetensors").stat().st_mtime_ns
    code, _, err = run(capsys, *words, "--seed", "1")
    assert code == 2 and "other settings" in err
    assert run(capsys, *words)[0] == 0 and Path("damaged/000000.safetensors").stat().st_mtime_ns == first
    assert run(capsys, *words[:2], "whole", *words[3:])[0] == 0
    assert fingerprint(read_corrupted("damaged")) == fingerprint(read_corrupted("whole"))


CORRUPT_REFUSED = {
    "no source": (("gone", "d"), "nothing to read"),
    "out is a file": (("in", "a.png"), "is a file"),
    "share": (("in", "d", "--clean-share", "2"), "outside"),
    "noise": (("in", "d", "--sigma", "-1"), "outside"),
    "noise in the former unit": (("in", "d", "--sigma-noise", "-1"), "outside"),
    "both units": (("in", "d", "--sigma", "0.1", "--sigma-noise", "0.2"), "give one or the other"),
    "a number that is two": (("in", "d", "--damage", "noise sigma=0.1 sigma_01=0.1"), "are two levels"),
    "shrink": (("in", "d", "--shrink", "0"), "at least 1"),
    "kind": (("in", "d", "--damage", "jepg"), "Did you mean 'jpeg'"),
    "knob": (("in", "d", "--damage", "jpeg qualty=3"), "Did you mean 'quality'"),
    "range": (("in", "d", "--damage", "jpeg quality=300"), "outside [1, 100]"),
    "number": (("in", "d", "--damage", "jpeg quality=low"), "not a number"),
    "no value": (("in", "d", "--damage", "jpeg quality"), "a kind and its knobs were expected"),
    "nothing": (("in", "d", "--damage", ""), "a kind and its knobs were expected"),
    "quote": (("in", "d", "--damage", "jpeg quality='3"), "a kind and its knobs were expected"),
    "both": (("in", "d", "--damage", "jpeg", "--sigma", "0.1"), "give one or the other"),
    "two masks": (("in", "d", "--damage", "random-mask", "--damage", "compressed-sensing"), "One data set can hide"),
    "blur too wide": (("in", "d", "--damage", "gaussian-blur width=9", "--clean-share", "0"), "0.png: The blur kernel"),
}


@pytest.mark.parametrize("case", CORRUPT_REFUSED)
def test_corrupt_refuses_in_a_sentence(capsys, place, case):
    flat_pictures(1)
    words, expected = CORRUPT_REFUSED[case]
    code, out, err = run(capsys, "corrupt", *words)
    assert code == 2 and expected in err and out == "" and not Path("d/manifest.jsonl").exists()
    assert len(" ".join(err.split("\n")[-2:]).strip()) < 400 and "Traceback" not in err


def test_help_of_corrupt_shows_every_kind_and_knob(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = " ".join(run(capsys, "corrupt", "--help")[1].split())
    for name, cls in DATA_DAMAGES.items():
        assert f"{name}: {cls.__doc__.splitlines()[0]}" in out
        assert all(f"{k.name}={k.default} {k.help}" in out for k in user_knobs(cls) if k.name != "share")


def test_info_lists_every_knob(capsys, prior, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys, "info")
    assert code == 0
    for name, algorithm in ALGORITHMS.items():
        assert f"algorithm {name} ({algorithm.paper})" in out
        assert all(k.help[:40] in out for k in knobs(algorithm))
    for name, other in (("mmps", "dps"), ("inpaint", "jpeg")):
        code, out, _ = run(capsys, "info", name)
        assert code == 0 and f" {name}" in out and f" {other}" not in out
    code, out, _ = run(capsys, "info", str(prior))
    assert code == 0 and "Random weights." in out and "parameters" in out and "(8, 16)" in out
    code, _, err = run(capsys, "info", "photso")
    assert code == 2 and "photso" in err


def test_info_says_what_must_be_given_and_what_auto_takes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert re.search(r"--sigma +must be given ", run(capsys, "info", "denoise")[1])
    assert re.search(r"--mask +must be given ", run(capsys, "info", "inpaint")[1])
    assert re.search(r"--sigma +0.02 ", run(capsys, "info", "inpaint")[1])
    for words in (["info"], ["info", "auto"]):
        out = run(capsys, *words)[1]
        assert all(re.search(rf"{re.escape(problem)} +{name}\n", out) for problem, name in CASES)
    assert {name for _, name in CASES} <= set(ALGORITHMS) and CASES[-1][1] == for_scans("auto")


def test_the_line_of_a_picture_says_what_auto_took(capsys, prior, place):
    out = restore(capsys, prior, "a.png", *INPAINT)[1]
    taken = json.loads((place / "restored/a/settings.json").read_text())["algorithm"]
    assert taken == CASES[0][1] and f", {taken}, " in out.splitlines()[0]
    assert f", {taken}, finished before" in restore(capsys, prior, "a.png", *INPAINT)[1]
    Image.open("a.png").save("b.jpg")
    words = ("b.jpg", "--task", "jpeg", "--quality", "20", "--json")
    assert json.loads(restore(capsys, prior, *words)[1])["algorithm"] == CASES[1][1]


def test_what_replaces_an_earlier_result_says_so(capsys, prior, place):
    assert "replaces" not in restore(capsys, prior, "a.png", *INPAINT)[1]
    assert "replaces" not in restore(capsys, prior, "a.png", *INPAINT)[1]  # finished before
    assert (
        "Note: this replaces what a run with other settings"
        in restore(capsys, prior, "a.png", *INPAINT, "--seed", "1")[1]
    )
    assert "replaces" not in restore(capsys, prior, "a.png", *INPAINT, "--seed", "2", "--out", "other")[1]


def test_usage_and_version(capsys):
    assert run(capsys)[0] == 0 and run(capsys, "--version")[1].startswith("ambient-solve ")
    for command in ("demo", "restore", "corrupt", "check", "evaluate", "info"):
        code, out, _ = run(capsys, command, "--help")
        assert code == 0 and f"ambient-solve {command}" in out
    code, _, err = run(capsys, "restor", "a.png")
    assert code == 2 and "Did you mean 'restore'" in err
    assert run(capsys, "restore", "a.png", "--samples", "many")[0] == 2


def test_help_of_restore_shows_the_task_options(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    out = run(capsys, "restore", "--help")[1]
    assert "MISSING" in out and "--factor INT" in out and "0.0001 to 10" in out


@pytest.mark.slow
def test_ctrl_c_exits_130(prior, place):
    words = ["restore", "a.png", *INPAINT, "--steps", "10000", "--prior", str(prior)]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            # A shell that runs the tests in the background has its children ignore the signal.
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "import sys, ambient_solve.solver as _; "
            "from ambient_solve.cli.dispatch import main; print('up', flush=True); "
            "sys.exit(main())",
            *words,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "up\n"
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and err.strip() == "Interrupted. What was finished is kept."


@pytest.mark.skipif("photos" not in embedded_priors(), reason="the embedded prior 'photos' is not there yet")
def test_demo_with_the_embedded_prior(capsys, place):
    code, out, err = run(capsys, "demo", "--steps", "2", "--samples", "2")
    assert code == 0, err
    assert "PSNR" in out and "demo/demo.png" in out
    assert min(Image.open("demo/demo.png").size) > 1000


def test_demo_draws_a_sheet_with_any_prior(capsys, prior, place, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = run(capsys, "demo", "--steps", "1", "--samples", "2", "--prior", str(prior), "--out", "sheet")
    assert code == 0 and "half the resolution" in out and Path("sheet/demo.png").is_file()
    code, _, err = run(capsys, "demo", "--samples", "1", "--prior", str(prior))
    assert code == 2 and "two samples" in err
