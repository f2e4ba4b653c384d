"""A training that cannot lose what it did, nor say of itself what is not so."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve.data.corruption import Corruption, corrupt, read_corrupted, write_corrupted
from ambient_solve.data.damages import JpegBlocks, Noise
from ambient_solve.data.frozen import freeze, hide
from ambient_solve.data.images import read_images
from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from helpers import one_sentence

ROOT = Path(__file__).resolve().parents[2]
TRAINERS = ROOT / "trainers"
SETTINGS = {
    "name": "tiny",
    "sources": [{"path": "pictures"}],
    "corruption": {"seed": 3, "clean_share": 0.5, "damages": [{"kind": "noise", "sigma": 0.2}]},
    "network": {"widths": [8], "groups": 4, "embedding": 16},
    "crop": 16,
    "batch": 4,
    "images": 24,
    "tracker": "none",
    "duplicates": False,
    "stats_every": 1,
    "checkpoint_every": 2,
    "validate_every": 0,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("safety")
    draw = np.random.default_rng(0)
    for name in ("pictures", "more"):
        (root / name).mkdir()
        for k in range(8):
            coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            coarse.resize((32, 32), Image.Resampling.BICUBIC).save(root / name / f"{k}.png")
    return root


@pytest.fixture
def trainers(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINERS))
    return importlib.import_module


@pytest.fixture
def command(root, trainers, monkeypatch, capsys):
    """The training command in this process: `command(changes, options)` gives (exit code, stdout, stderr)."""
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    train = trainers("train")

    def call(settings: dict, *options: str) -> tuple[int, str, str]:
        (root / "case.yaml").write_text(yaml.safe_dump({**SETTINGS, **settings}))
        arguments = ["train.py", "--config", str(root / "case.yaml"), "--data-root", str(root), *options]
        monkeypatch.setattr(sys, "argv", arguments)
        try:
            train.main()
        except SystemExit as stop:
            return stop.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    yield call
    AcceleratorState._reset_state(reset_partial_state=True)


# The arithmetic ---


@pytest.mark.parametrize("native", [True, False])
def test_auto_takes_bfloat16_where_the_hardware_multiplies_it_alone(trainers, monkeypatch, native):
    weights, cpu = trainers("ambient_solve.training.weights"), torch.device("cpu")
    monkeypatch.setattr(weights, "multiplies_bfloat16", lambda device: native)
    found = {asked: weights.arithmetic(asked, cpu) for asked in ("auto", "bf16", "fp32", "no")}
    auto = "bfloat16" if native else "float32"
    assert found == {"auto": auto, "bf16": "bfloat16", "fp32": "float32", "no": "float32"}
    said = {asked: weights.about_arithmetic(asked, cpu) for asked in found}
    assert auto in said["auto"] and "float32" in said["fp32"]
    assert said["bf16"].startswith("warning: ") == (not native)
    assert not any(said[asked].startswith("warning: ") for asked in ("auto", "fp32", "no"))
    assert all(text.count("\n") == 0 and text.endswith(".") for text in said.values())


@pytest.mark.parametrize("native", [True, False])
def test_run_says_in_log_and_card_what_it_computed_in(root, command, trainers, monkeypatch, native):
    weights = trainers("ambient_solve.training.weights")
    assert trainers("ambient_solve.training.config").Config(out="x").precision == "auto"
    monkeypatch.setattr(weights, "multiplies_bfloat16", lambda device: native)
    code, _, error = command({"images": 4}, "--out", str(root / f"arithmetic-{native}"))
    chosen = "bfloat16" if native else "float32"
    assert code == 0 and f"The network computes in {chosen} (precision: auto" in error
    card = (root / f"arithmetic-{native}" / "prior" / "README.md").read_text()
    assert f"the network in {chosen}" in card


# What the card says of data that were damaged before ---


def test_card_tells_what_was_done_to_data_that_were_damaged_before(root, command):
    from ambient_solve.cli.dispatch import main

    done = ["--clean-share", "0.25", "--shrink", "2", "--seed", "42", "--damage", "noise sigma=0.3"]
    assert main(["corrupt", str(root / "pictures"), str(root / "set"), *done]) == 0
    recorded = json.loads((root / "set" / "corruption.json").read_text())
    assert recorded["source"] == str(root / "pictures") and recorded["shrink"] == 2 and recorded["seed"] == 42
    assert command({"sources": [{"path": "corrupted:set"}], "images": 4}, "--out", str(root / "of-set"))[0] == 0
    card = (root / "of-set" / "prior" / "README.md").read_text()
    assert "| corrupted:set | 1.0 | 2 |" in card
    assert '"seed": 42, "clean_share": 0.25' in card and '"source": "pictures"' in card
    # The settings of the run, which were not applied, are not there; nor is a path of the machine.
    assert '"corruption"' not in card and '"clean_share": 0.5' not in card and str(root) not in card
    (root / "set" / "corruption.json").unlink()
    assert command({"sources": [{"path": "corrupted:set"}], "images": 4}, "--out", str(root / "of-bare"))[0] == 0
    card = (root / "of-bare" / "prior" / "README.md").read_text()
    assert "| corrupted:set | 1.0 | not recorded |" in card and "how is not recorded" in card
    # Control: where the run damages pictures itself, its settings are what was applied.
    assert command({"images": 4}, "--out", str(root / "of-pictures"))[0] == 0
    card = (root / "of-pictures" / "prior" / "README.md").read_text()
    assert "| pictures | 1.0 | 1 |" in card and '"clean_share": 0.5' in card and "damaged before" not in card


# Checkpoints ---


def test_truncated_checkpoint_costs_what_was_done_since_the_one_before_alone(root, command):
    parts = ["prior/model.safetensors", "stats.jsonl", *(f"checkpoint-6/{p}.safetensors" for p in ("model", "ema"))]
    assert command({}, "--out", str(root / "whole"))[0] == 0
    whole = [(root / "whole" / part).read_bytes() for part in parts]
    assert sorted(p.name for p in (root / "whole").glob("checkpoint*")) == ["checkpoint-4", "checkpoint-6"]
    for name in ("model", "ema", "optimizer"):
        out = root / f"torn-{name}"
        assert command({}, "--out", str(out))[0] == 0
        torn = out / "checkpoint-6" / f"{name}.safetensors"
        torn.write_bytes(torn.read_bytes()[:-7])
        code, _, error = command({}, "--out", str(out))
        assert code == 0 and "checkpoint-6 cannot be read" in error and "going on from checkpoint-4." in error
        assert [(out / part).read_bytes() for part in parts] == whole, name
    # Control: with both of them torn there is nothing to go on from, and one sentence says so.
    for step in (4, 6):
        (root / "whole" / f"checkpoint-{step}" / "state.json").write_text("{")
    code, _, error = command({}, "--out", str(root / "whole"))
    assert code == 2 and "checkpoint-6 cannot be read" in error and "delete both" in error


def test_files_are_on_the_disk_before_they_take_their_names(trainers, tmp_path, monkeypatch):
    """The order of the calls: what is renamed was synchronised before, and the folder after it."""
    tensors = importlib.import_module("ambient_solve.saving")
    checkpoints, calls = trainers("ambient_solve.training.checkpoints"), []
    for module in (checkpoints, tensors):
        monkeypatch.setattr(module, "reach_disk", lambda path: calls.append(("disk", Path(path).name)))
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda a, b: calls.append(("rename", a.name)) or rename(a, b))
    prior = NetworkPrior(NetworkConfig(widths=(8,), groups=4, embedding=8))
    optimizer = torch.optim.AdamW(prior.parameters())
    checkpoints.Checkpoints(tmp_path / "run").save(2, 0.0, prior, prior.state_dict(), optimizer)
    before = calls[: calls.index(("rename", "checkpoint.part"))]
    written = {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json.part", "checkpoint.part"}
    assert {name for kind, name in before if kind == "disk"} == written
    assert calls[-1] == ("disk", "run")


# One run in a folder ---

HOLD = """
import os, sys, time
sys.path[:0] = [{trainers!r}]
from pathlib import Path
from ambient_solve.training.locks import only_run_in
with only_run_in(Path({folder!r})):
    print("held", flush=True)
    time.sleep(120)
"""


def test_second_run_is_refused_by_name_and_a_killed_one_leaves_no_lock(root, command, trainers, tmp_path):
    locks, out = trainers("ambient_solve.training.locks"), tmp_path / "out"
    code = HOLD.format(trainers=str(TRAINERS), folder=str(out))
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        code, _, error = command({"images": 4}, "--out", str(out))
        assert code == 2 and f"in use by process {other.pid} on {socket.gethostname()}" in error
        assert one_sentence(error) and not (out / "run.json").exists()
    finally:
        other.kill()
        other.communicate()
    assert other.returncode == -signal.SIGKILL and (out / locks.HOLDER).is_file()
    assert command({"images": 4}, "--out", str(out))[0] == 0
    assert not (out / locks.HOLDER).exists()
    with locks.only_run_in(out), pytest.raises(AmbientSolveError, match=f"process {os.getpid()} on"):
        with locks.only_run_in(out):
            pass


def two_processes(root: Path, out: Path, *launcher: str) -> subprocess.CompletedProcess:
    own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    (root / "two.yaml").write_text(yaml.safe_dump({**SETTINGS, "images": 8}))
    words = ["--config", str(root / "two.yaml"), "--data-root", str(root), "--out", str(out)]
    command = [sys.executable, *launcher, str(TRAINERS / "train.py"), *words]
    environment = {**os.environ, **own, "HF_HOME": str(root / "hf"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def torchrun() -> list[str]:
    return ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]


@pytest.mark.slow
def test_processes_of_one_run_share_its_lock_and_all_of_them_end_where_it_is_held(root, trainers, tmp_path):
    found = two_processes(root, tmp_path / "out", *torchrun())
    assert found.returncode == 0, found.stderr
    with trainers("ambient_solve.training.locks").only_run_in(tmp_path / "held"):
        started = time.monotonic()
        found = two_processes(root, tmp_path / "held", *torchrun())
    assert found.returncode != 0 and found.stderr.count(f"in use by process {os.getpid()} on") == 1, found.stderr
    assert not (tmp_path / "held" / "run.json").exists() and time.monotonic() - started < 300


# Processes that were asked for ---


@pytest.mark.slow
def test_accelerate_that_starts_one_process_of_two_is_said(root, tmp_path):
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port", free_port()]
    found = two_processes(root, tmp_path / "one", *launcher)
    assert found.returncode == 0, found.stderr
    assert found.stderr.count("was asked for several processes and started one") == 1
    assert "torchrun --nproc_per_node N trainers/train.py" in found.stderr


def test_processes_that_run_are_not_missed(trainers):
    missing = trainers("ambient_solve.training.launch").missing_processes
    launched = {"ACCELERATE_MIXED_PRECISION": "no"}
    asked = {**launched, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert missing(asked, 1) and missing(asked, 1).count(". ") == 0
    assert not missing(asked, 2), "two run"
    assert not missing({**asked, "RANK": "0"}, 1), "torchrun of one"
    assert not missing(launched, 1), "one was asked for"
    assert not missing({"MASTER_ADDR": "127.0.0.1"}, 1), "python alone, where a cluster sets an address"


# Noise of several sources ---


def test_pictures_of_two_sources_hold_different_noise(root, trainers):
    config, sources = trainers("ambient_solve.training.config"), trainers("ambient_solve.training.sources")
    grey = [("a", torch.full((3, 16, 16), 128, dtype=torch.uint8))]

    def noise(source: str) -> torch.Tensor:
        (sample,) = corrupt(grey, 1, Corruption(clean_share=0.0, damages=(Noise(sigma=0.3),)), source=source)
        return sample.z

    assert not torch.equal(noise("a"), noise("b"))
    assert torch.equal(noise("a"), noise("a"))
    # As a run reads them: the same pictures twice, under two names.
    (root / "same").mkdir()
    for path in (root / "pictures").iterdir():
        (root / "same" / path.name).write_bytes(path.read_bytes())
    both = tuple(config.Source(name) for name in ("pictures", "same", "./pictures"))
    settings = config.Config(
        out="x",
        data_root=str(root),
        sources=both,
        corruption=Corruption(seed=1, clean_share=0.0, damages=(Noise(sigma=0.3),)),
        duplicates=False,
    )
    samples = sources.read_data(settings, False).samples
    first, second, again = (torch.stack([s.z for s in samples[k : k + 8]]).float() for k in (0, 8, 16))
    assert torch.equal(first, again), "control: a source is the same however its path is spelt"
    clean = torch.stack([p for _, p in read_images(root / "pictures")]).float() / 127.5 - 1
    a, b = first - clean, second - clean
    correlation = float((a * b).mean() / (a.std() * b.std()))
    assert abs(correlation) < 0.05, "independent noise: a standard error is 1 / sqrt(24576), .006"


def test_frozen_and_hidden_noise_differs_by_source():
    grey = [(str(k), torch.full((3, 8, 8), 128, dtype=torch.uint8)) for k in range(2)]
    clean = list(corrupt(grey, 2, Corruption(clean_share=1.0)))
    frozen = {s: freeze(clean, 0.5, 0, 1.2, s)[1].z for s in ("a", "b")}
    assert not torch.equal(frozen["a"], frozen["b"])
    jpegs = list(corrupt(grey, 2, Corruption(clean_share=0.0, damages=(JpegBlocks(sigma_min=0.5),))))
    hidden = {s: hide(jpegs, 0, s)[0].z for s in ("a", "b")}
    assert not torch.equal(hidden["a"], hidden["b"])


# Sharing ---


def test_recorded_seed_index_and_source_undo_the_noise_and_without_the_seed_a_folder_still_trains(tmp_path):
    picture = torch.arange(3 * 16 * 16, dtype=torch.int64).remainder(200).to(torch.uint8).reshape(3, 16, 16)
    settings = Corruption(seed=2**40 + 7, clean_share=0.0, damages=(Noise(sigma=0.3),))
    write_corrupted([("a", picture)], 1, settings, tmp_path / "set", "photos")
    row = json.loads((tmp_path / "set" / "manifest.jsonl").read_text())
    source = json.loads((tmp_path / "set" / "corruption.json").read_text())["source"]
    (stored,) = read_corrupted(tmp_path / "set")

    def undone(seed: int) -> float:
        noise = Corruption(seed=seed).random(row["index"], source).standard_normal((3, 16, 16), dtype=np.float32)
        clean = picture.float() / 127.5 - 1
        return float((stored.z.float() - 0.3 * torch.from_numpy(noise) - clean).abs().max())

    assert undone(row["seed"]) < 2e-3 < undone(row["seed"] + 1)
    del row["seed"], row["index"]
    (tmp_path / "set" / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "set" / "corruption.json").unlink()
    assert torch.equal(next(iter(read_corrupted(tmp_path / "set"))).z, stored.z)


def test_help_of_corrupt_says_that_its_noise_can_be_undone(capsys):
    from ambient_solve.cli.dispatch import main

    assert main(["corrupt", "--help"]) == 0
    assert "noise can be drawn again" in " ".join(capsys.readouterr().out.split())
