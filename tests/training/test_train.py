"""The training command as a user runs it: killed and resumed, on two processes, accumulated, given bad settings."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
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
from safetensors.torch import load_file

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve.cli.train import export_command
from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Streams
from ambient_solve.priors.load import load_prior
from ambient_solve.priors.network import NetworkConfig, NetworkPrior

pytestmark = pytest.mark.timeout(500)  # seconds: its tests wait for other processes
TRAINERS = Path(__file__).resolve().parents[2] / "trainers"
STEPS = 60
SETTINGS = {
    "name": "tiny",
    "sources": [{"path": "pictures", "held_out": 4, "terms": "made by the test"}],
    "corruption": {"seed": 3, "clean_share": 0.5, "damages": [{"kind": "noise", "sigma": 0.2}]},
    "network": {"widths": [8, 16], "groups": 4, "embedding": 32},
    "crop": 16,
    "batch": 8,
    "images": 8 * STEPS,
    "lr": 2e-3,
    "warmup": 80,
    "ema": {"half_life": 100},
    "precision": "no",
    "seed": 11,
    "stats_every": 5,
    "checkpoint_every": 20,
    "validate_every": 30,
}
NOISY = {"seed": 3, "clean_share": 0.0, "damages": [{"kind": "noise", "sigma": 0.2}]}
CHECKPOINT = [f"checkpoint-{STEPS}/{part}.safetensors" for part in ("model", "ema", "optimizer")]
SAME = ["prior/model.safetensors", "prior/config.json", "stats.jsonl", "run.json", *CHECKPOINT]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Smooth random pictures, and the settings of a tiny run."""
    root = tmp_path_factory.mktemp("train")
    (root / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for k in range(20):
        coarse = Image.fromarray(draw.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((30, 24), Image.Resampling.BICUBIC).save(root / "pictures" / f"{k:02d}.png")
    (root / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS))
    return root


def start(root: Path, out: str, *options: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    # One thread a process; no accelerate configuration of the user's own.
    own = {
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(root / "hf"),
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
    }
    environment = {**os.environ, **own}
    command = [sys.executable, *launcher, str(TRAINERS / "train.py"), "--config", str(root / "tiny.yaml")]
    command += ["--data-root", str(root), "--out", str(root / out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen) -> str:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out


def run(root: Path, out: str, *options: str) -> Path:
    assert "The prior is in" in finish(start(root, out, *options))
    return root / out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoint-{STEPS}" / "ema.safetensors")


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference of a tensor, relative to the tensor's own norm."""
    return max(float((a[k] - b[k]).norm() / a[k].norm().clamp_min(1e-3)) for k in a)


@pytest.fixture(scope="module")
def uninterrupted(root) -> Path:
    return run(root, "uninterrupted")


@pytest.fixture
def command(root, monkeypatch, capsys):
    """The command in this process: `command(changes of the settings, options)` gives (exit code, stdout, stderr)."""
    from accelerate.state import AcceleratorState

    monkeypatch.syspath_prepend(str(TRAINERS))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    train = importlib.import_module("train")

    def call(settings: dict | str, *options: str) -> tuple[int, str, str]:
        text = settings if isinstance(settings, str) else yaml.safe_dump({**SETTINGS, **settings})
        (root / "case.yaml").write_text(text)
        arguments = ["train.py", "--config", str(root / "case.yaml"), "--data-root", str(root), *options]
        monkeypatch.setattr(sys, "argv", arguments)
        code = 0
        try:
            train.main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    yield call
    AcceleratorState._reset_state(reset_partial_state=True)


def test_killed_run_resumes_bit_for_bit(root, uninterrupted):
    process, rows = start(root, "killed"), root / "killed" / "stats.jsonl"
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            # Past the checkpoint at 20 and a row of statistics that the resumed run must write again.
            if rows.is_file() and '"step": 25,' in rows.read_text() and (root / "killed" / "checkpoint-20").is_dir():
                break
            time.sleep(0.002)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL and not (root / "killed" / "prior").exists()
    found = [p.name for p in (root / "killed").glob("checkpoint-*")]
    assert found and f"checkpoint-{STEPS}" not in found
    # What a kill in the middle of a write leaves behind.
    with rows.open("a") as file:
        file.write('{"step": 99, "im')
    (root / "killed" / "checkpoint.part").mkdir(exist_ok=True)
    resumed = run(root, "killed")
    for name in SAME:
        assert (resumed / name).read_bytes() == (uninterrupted / name).read_bytes(), f"{name} differs after {found}"
    assert {p.name for p in resumed.glob("checkpoint*")} == {"checkpoint-40", f"checkpoint-{STEPS}"}
    steps = [json.loads(line)["step"] for line in (resumed / "stats.jsonl").read_text().splitlines()]
    assert steps == list(range(5, STEPS + 1, 5))


def test_a_checkpoint_is_exported_as_the_finished_prior(root, uninterrupted, capsys):
    run = root / "exported"
    shutil.copytree(uninterrupted, run, ignore=shutil.ignore_patterns("prior"))
    arguments = ["--config", str(root / "tiny.yaml"), "--data-root", str(root), "--out", str(run)]
    export_command([*arguments, "--note", "Seen: all."])
    for name in ("model.safetensors", "config.json"):
        assert (run / "prior" / name).read_bytes() == (uninterrupted / "prior" / name).read_bytes()
    before, after = ((folder / "prior" / "README.md").read_text() for folder in (uninterrupted, run))
    assert after.splitlines()[-1] == "Seen: all." and "Seen" not in before
    assert [line for line in after.splitlines() if "Seen" not in line][:-1] == [
        line for line in before.splitlines() if "note" not in line
    ]
    with pytest.raises(SystemExit):
        export_command([*arguments[:-1], str(root / "empty")])
    assert "holds no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resume_is_exact_in_the_memory_layout_of_either_precision(tmp_path, monkeypatch, precision):
    """bfloat16 trains channels-last: moments restored in another layout would run other, slower kernels."""
    monkeypatch.syspath_prepend(str(TRAINERS))
    checkpoints = importlib.import_module("ambient_solve.training.checkpoints").Checkpoints(tmp_path)

    def build():
        torch.manual_seed(0)
        prior = NetworkPrior(NetworkConfig(widths=(8, 24), groups=4, embedding=32), precision)
        prior.match_layout(torch.device("cpu"))
        return (
            prior,
            torch.optim.AdamW(prior.parameters(), lr=1e-3),
            {k: v.clone() for k, v in prior.state_dict().items()},
        )

    def train(prior, optimizer, ema, steps) -> None:
        for step in steps:
            z = Streams([step], 1).normal(torch.empty(1, 3, 16, 16)).repeat(2, 1, 1, 1)
            (prior(z, 0.5) - 0.3 * z).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            torch._foreach_lerp_(list(ema.values()), [v.detach() for v in prior.state_dict().values()], 0.1)

    prior, optimizer, ema = build()
    train(prior, optimizer, ema, range(4))
    checkpoints.save(4, 1.5, prior, ema, optimizer)
    train(prior, optimizer, ema, range(4, 8))
    other, its_optimizer, its_ema = build()
    assert checkpoints.load(other, its_ema, its_optimizer) == (4, 1.5)
    train(other, its_optimizer, its_ema, range(4, 8))
    for a, b in ((prior.state_dict(), other.state_dict()), (ema, its_ema)):
        assert all(torch.equal(a[k], b[k]) for k in a)
    for a, b in zip(prior.parameters(), other.parameters(), strict=True):
        for key, moment in optimizer.state[a].items():
            assert torch.equal(moment, its_optimizer.state[b][key])
            assert moment.stride() == its_optimizer.state[b][key].stride()


def test_unreadable_checkpoint_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINERS))
    checkpoints = importlib.import_module("ambient_solve.training.checkpoints").Checkpoints(tmp_path)
    prior = NetworkPrior(NetworkConfig(widths=(8,), groups=4, embedding=8))
    optimizer = torch.optim.AdamW(prior.parameters())
    (tmp_path / "checkpoint-old").mkdir()
    assert checkpoints.load(prior, {}, optimizer) == (0, 0.0)
    checkpoints.save(7, 0.0, prior, prior.state_dict(), optimizer)
    (tmp_path / "checkpoint-7" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(AmbientSolveError, match="checkpoint-7 cannot be read") as error:
        checkpoints.load(prior, {}, optimizer)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_two_processes_agree_with_one(root, uninterrupted, command):
    """By torch's launcher, which `accelerate launch` calls for GPUs; for CPUs the latter wants MPI, or starts one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port)
    said = finish(start(root, "two", launcher=launcher))
    assert said.count("The prior is in") == 1, "two processes that do not know of each other both finish the prior"
    two = distance(weights(uninterrupted), weights(root / "two"))
    assert command({}, "--out", str(root / "other"), "--seed", "12")[0] == 0
    control = distance(weights(uninterrupted), weights(root / "other"))
    print(f"\ntwo processes differ from one by {two:.1e}, another seed by {control:.1e} (relative, worst tensor)")
    assert 0 < two < 1e-4 < control
    ours, theirs = (
        [json.loads(line) for line in (root / name / "stats.jsonl").read_text().splitlines()]
        for name in ("uninterrupted", "two")
    )
    for a, b in zip(ours, theirs, strict=True):
        assert a["step"] == b["step"] and a["buckets"] == pytest.approx(b["buckets"], rel=1e-3)


def test_accumulated_steps_agree_with_whole_ones(root, uninterrupted, command):
    assert command({"accumulate": 2}, "--out", str(root / "accumulated"))[0] == 0
    found = distance(weights(uninterrupted), weights(root / "accumulated"))
    print(f"\ntwo micro-batches a step differ from one by {found:.1e} (relative, worst tensor)")
    assert found < 1e-4


def test_finished_prior_loads_and_its_card_names_data_damage_and_seed(uninterrupted):
    prior = NetworkPrior.load(uninterrupted / "prior", "float32")
    for name, tensor in weights(uninterrupted).items():
        assert torch.equal(prior.state_dict()[name], tensor.half().float()), "the prior holds the averaged weights"
    again = load_prior(uninterrupted / "prior", "float32")
    z = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(prior.denoise(z, 0.5), again.denoise(z, 0.5))
    card = (uninterrupted / "prior" / "README.md").read_text()
    assert "| pictures | 1.0 | 1 | 4 | made by the test |" in card
    assert "| clean | 0 | 0 | 100 % | all | 8 |" in card and "| noise | 0.1 | 0.2 | 100 % | above 0.2 | 8 |" in card
    assert f"{STEPS} steps of 8 samples, seed 11" in card
    assert re.search(r"Hash of the damaged data: `[0-9a-f]{16}`", card)
    assert str(uninterrupted.parent) not in card, "a path of the machine is in the card"
    # Denoised held-out pictures are nearer the truth than noisy ones, at every level of the table.
    table = re.findall(r"^\| ([\d.]+) \| (-?[\d.]+) \| (-?[\d.]+) \|$", card, flags=re.M)
    assert len(table) == 6 and all(float(denoised) > float(noisy) for _, noisy, denoised in table[2:])


def test_bad_setting_ends_the_command_with_code_2(root):
    (root / "typo.yaml").write_text(yaml.safe_dump({**SETTINGS, "network": {"width": [8, 16]}}))
    process = start(root, "typo", "--config", str(root / "typo.yaml"))
    out, error = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert error.count("\n") == 1 and "'width' is unknown. Did you mean 'widths'?" in error
    assert not (root / "typo").exists()


BAD = {
    "unknown key": ({"learning_rate": 1e-3}, "'learning_rate' is unknown. Known: .*lr"),
    "unknown key with a suggestion": ({"batches": 8}, "'batches' is unknown. Did you mean 'batch'"),
    "unknown key below": ({"corruption": {"clean": 0.1}}, "corruption: 'clean' is unknown. Did you mean 'clean_share'"),
    "unknown damage": (
        {"corruption": {"damages": [{"kind": "nois"}]}},
        "Did you mean 'noise'",
    ),
    "unknown objective": ({"objective": {"kind": "mask"}}, "kind = 'mask' is unknown. Did you mean 'masked'"),
    "incomplete": (
        {"corruption": {"clean_share": 0.0, "damages": [{"kind": "random-mask"}]}},
        "is incomplete, which the objective does not know: set objective: {kind: masked}",
    ),
    "noisy": ({"objective": {"kind": "conditional"}}, "is damaged, and the objective needs clean samples"),
    "unknown schedule": ({"schedule": "cosin"}, "Did you mean 'cosine'"),
    "unknown tracker": ({"tracker": "tensorbord"}, "Did you mean 'tensorboard'"),
    "sigma_data": ({"objective": {"sigma_data": 1.0}}, "must be the same"),
    "mask_channels": ({"network": {"mask_channels": 2}}, "follow from the objective"),
    "size": ({"network": {"size": [8, 8]}}, "must be the crop of 16"),
    "decay": ({"decay": 0}, "decay = 0 must be more than 0"),
    "shrunk after the damage": ({"sources": [{"path": "corrupted:x", "shrink": 2}]}, "is damaged already"),
    "no widths": ({"network": {"widths": []}}, "network says widths"),
    "missing start": ({"init": "absent"}, "There is no prior 'absent'"),
    "unknown key of a source": (
        {"sources": [{"path": "pictures", "heldout": 1}]},
        r"sources\[0\]: 'heldout'.*held_out",
    ),
    "no path": ({"sources": [{"share": 1.0}]}, r"sources\[0\]: .*path"),
    "no word for a section": ({"network": None}, "network must hold names and values"),
    "word for a number": ({"lr": "fast"}, "lr = 'fast' is no float"),
    "fraction of a batch": ({"batch": 8.5}, "batch = 8.5 is no int"),
    "not YAML": ("name: [tiny", "readable YAML"),
    "empty file": ("", "must hold names and values"),
    "choice": ({"objective": {"weight": "omny"}}, "Did you mean 'omni'"),
    "missing folder": ({"sources": [{"path": "absent"}]}, "absent is no folder"),
    "missing pack": ({"sources": [{"path": "absent.npz"}]}, "no pack"),
    "no source": ({"sources": []}, "There is no data"),
    "all held out": ({"sources": [{"path": "pictures", "held_out": 20}]}, "20 are held out"),
    "batch": ({"batch": 9, "accumulate": 2}, "batch = 9 does not divide"),
    "fp16": ({"precision": "fp16"}, "choose auto, bf16 or fp32"),
    "statistics": ({"stats_every": 7}, "multiple of stats_every"),
    "only noisy": ({"corruption": NOISY}, "No sample may be used between sigma = 0.01 and 0.2309"),
    "nothing left": ({"corruption": NOISY, "drop_noisy": True}, "No sample is left"),
    "crop": ({"crop": 25}, "smaller than the crop of 25"),
    "groups": ({"network": {"widths": [10, 16], "groups": 4}}, "network says groups = 4; a divisor of the widths"),
    "length": ({"images": 0}, "images = 0 must be more than 0"),
    "s_max": ({"s_max": 1.0}, "s_max"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_sentence_and_code_2(root, command, case):
    settings, expected = BAD[case]
    code, _, error = command(settings, "--out", str(root / "bad"))
    assert code == 2 and re.search(expected, error), error
    assert "Traceback" not in error and error.strip().count("\n") == 0, error
    assert not (root / "bad" / "run.json").exists(), "a run that never started must not claim its folder"


def test_folder_of_another_run_is_refused(root, command, uninterrupted):
    code, _, error = command({"lr": 1e-4}, "--out", str(uninterrupted))
    assert code == 2 and "another configuration (lr)" in error and error.count("\n") == 1
    assert (uninterrupted / "run.json").read_text() == json.dumps(
        json.loads((uninterrupted / "run.json").read_text()), indent=2
    )


def test_dry_run_prints_the_configuration_and_touches_nothing(root, command):
    code, out, _ = command({"lr": "5e-4"}, "--out", str(root / "dry"), "--dry-run", "--objective.weight", "laws")
    shown = yaml.safe_load(out)
    assert code == 0 and not (root / "dry").exists()
    assert shown["network"]["widths"] == [8, 16] and shown["network"]["sigma_max"] == 80.0
    assert shown["corruption"]["damages"] == [{"kind": "noise", "share": 1.0, "sigma": 0.2}]
    assert shown["objective"]["weight"] == "laws" and shown["lr"] == 5e-4 and shown["sources"][0]["held_out"] == 4


@pytest.mark.parametrize("file", sorted((TRAINERS / "configs").glob("[!e]*.yaml")), ids=lambda file: file.stem)
def test_shipped_configurations_are_valid(command, file):
    """Those of EM are read by another command, see test_em."""
    code, out, error = command(file.read_text(), "--out", "unused", "--dry-run")
    assert code == 0, error
    assert yaml.safe_load(out)["images"] >= 5_000


def test_validation_and_average_are_of_the_weights_of_every_step(root, command, monkeypatch):
    """The average is recomputed from the weights; the held-out loss and the sheet are those of the average."""
    train, states, measured = importlib.import_module("ambient_solve.training.loop"), [], []
    save, loss, sheet = train.Checkpoints.save, train.held_out_loss, train.sample_sheet
    copied = lambda tensors: {k: v.detach().clone() for k, v in tensors.items()}  # noqa: E731

    def kept(self, step, seconds, model, ema, *rest):
        states.append((copied(model.state_dict()), copied(ema)))
        save(self, step, seconds, model, ema, *rest)

    def measure(plain):
        return lambda prior, *rest: measured.append(copied(prior.state_dict())) or plain(prior, *rest)

    monkeypatch.setattr(train.Checkpoints, "save", kept)
    monkeypatch.setattr(train, "held_out_loss", measure(loss))
    monkeypatch.setattr(train, "sample_sheet", measure(sheet))
    own = {"images": 8 * 6, "checkpoint_every": 1, "stats_every": 1, "validate_every": 3, "lr": 0.01, "warmup": 1}
    assert command({**own, "ema": {"half_life": 20}}, "--out", str(root / "averaged"))[0] == 0
    average = states[0][1]
    for step, (weights_, ema) in enumerate(states[1:], 1):
        old = 0.5 ** (8 / min(20, 0.1 * 8 * (step + 1)))  # a half-life of a tenth of what was seen, at most 20 samples
        average = {k: old * v + (1 - old) * weights_[k] for k, v in average.items()}
        assert distance(average, ema) < 1e-4
    assert len(states) == 6 and len(measured) == 4
    for found, step in zip(measured, (3, 3, 6, 6), strict=True):
        weights_, ema = states[step - 1]
        assert all(torch.equal(found[k], ema[k]) for k in ema)
        assert distance(found, weights_) > 1e-4  # the control: these are others
