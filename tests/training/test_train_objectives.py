"""Every objective through the training command: killed and resumed bit for bit; other starts, and writes that fail."""

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

from ambient_solve.errors import AmbientSolveError
from ambient_solve.objectives import OBJECTIVES
from ambient_solve.objectives.masked import Masked
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.load import load_prior
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from helpers import randn

pytestmark = pytest.mark.slow

TRAINERS = Path(__file__).resolve().parents[2] / "trainers"
STEPS = 8
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
SETTINGS = {
    "name": "tiny",
    "sources": [{"path": "pictures", "held_out": 2}],
    "network": {"widths": [8, 16], "groups": 4, "embedding": 32},
    "crop": 16,
    "batch": 4,
    "images": 4 * STEPS,
    "warmup": 16,
    "precision": "no",
    "tracker": "none",
    "duplicates": False,
    "stats_every": 2,
    "checkpoint_every": 4,
    "validate_every": 4,
}


def damage(clean: float, **kind) -> dict:
    return {"corruption": {"seed": 1, "clean_share": clean, "damages": [kind]}}


NOISE = damage(0.5, kind="noise", sigma=0.2)
CASES = {
    "denoise": NOISE,
    "masked": damage(0.0, kind="random-mask", missing=0.4),
    "kspace": {
        **damage(0.0, kind="kspace", acceleration=2, centre=2),
        **{"sources": [{"path": "corrupted:complex"}], "network": {**SETTINGS["network"], "channels": 2}},
        "objective": {"cg_iterations": 0},
    },
    "consistency": damage(0.0, kind="noise", sigma=0.2),
    "conditional": damage(1.0, kind="noise", sigma=0.2),
    "soft": damage(0.5, kind="periodic-blur", width=0.7)
    | {
        "process": {"kind": "soft", "strongest": 8.0},
        "network": {**SETTINGS["network"], "sigma_max": 0.5},
        "level_mean": -2.6,
    },
    "gsure": damage(0.0, kind="noise", sigma=0.05) | {"network": {**SETTINGS["network"], "sigma_min": 0.06}},
}
"""Damage that suits each objective, in YAML."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Smooth random pictures, some of them damaged beforehand as complex k-space."""
    from ambient_solve.data.corruption import Corruption, write_corrupted
    from ambient_solve.data.damages import KSpaceLines

    root = tmp_path_factory.mktemp("objectives")
    (root / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for k in range(12):
        coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((16, 16), Image.Resampling.BICUBIC).save(root / "pictures" / f"{k:02d}.png")
    lines = Corruption(1, 0.0, (KSpaceLines(acceleration=2, center=2),))
    complex_pictures = [(str(i), randn(2, 16, 16, seed=i)) for i in range(6)]
    write_corrupted(complex_pictures, 6, lines, root / "complex")
    return root


def configuration(root: Path, name: str, **changes) -> Path:
    case = {**SETTINGS, **CASES[name], **changes}
    case["objective"] = {"kind": name, **case.get("objective", {})}
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(case))
    return path


def start(root: Path, config: Path, out: str, *options: str) -> subprocess.Popen:
    command = [sys.executable, str(TRAINERS / "train.py"), "--config", str(config), "--data-root", str(root)]
    return subprocess.Popen(
        [*command, "--out", str(root / out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT, "HF_HOME": str(root / "hf")},
    )


def finish(process: subprocess.Popen, code: int = 0) -> str:
    out, error = process.communicate(timeout=180)
    assert process.returncode == code, error
    return out + error


def test_every_objective_has_a_case():
    assert set(CASES) | {"captioned"} == set(OBJECTIVES), "captions want words: test_words.py"


@pytest.mark.parametrize("name", list(CASES))
def test_killed_run_of_every_objective_resumes_bit_for_bit(root, name):
    config = configuration(root, name)
    whole, killed = start(root, config, f"{name}-whole"), start(root, config, f"{name}-killed")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and killed.poll() is None:
        if (root / f"{name}-killed" / "checkpoint-4").is_dir():
            break
        time.sleep(0.001)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and not (root / f"{name}-killed" / "prior").exists()
    finish(whole)
    finish(start(root, config, f"{name}-killed"))
    parts = [f"checkpoint-{STEPS}/{part}.safetensors" for part in ("model", "ema", "optimizer")]
    for file in ("prior/model.safetensors", "prior/config.json", "stats.jsonl", *parts):
        ours, theirs = ((root / f"{name}-{run}" / file).read_bytes() for run in ("killed", "whole"))
        assert ours == theirs, f"{file} differs"
    rows = [json.loads(line) for line in (root / f"{name}-whole" / "stats.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_prior_of_masked_data_is_mask_conditioned(root):
    if not (root / "masked-whole" / "prior").is_dir():
        finish(start(root, configuration(root, "masked"), "masked-whole"))
    prior = load_prior(root / "masked-whole" / "prior")
    assert isinstance(prior, AmbientPrior) and prior.keep_probability == pytest.approx(
        Masked().keep_probability(0.6), abs=0.02
    )


def test_network_conditioned_on_k_space_is_not_taken_for_one_of_pixels(root):
    if not (root / "kspace-whole" / "prior").is_dir():
        finish(start(root, configuration(root, "kspace"), "kspace-whole"))
    config = json.loads((root / "kspace-whole" / "prior" / "config.json").read_text())
    assert config["mask_channels"] == 1 and config["keep_probability"] is None
    with pytest.raises(AmbientSolveError, match="policy='measurement'"):
        load_prior(root / "kspace-whole" / "prior")


def test_start_from_a_prior_changes_nothing_at_first_even_with_new_mask_channels(root, monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINERS))
    config, weights = (
        importlib.import_module("ambient_solve.training.config"),
        importlib.import_module("ambient_solve.training.weights"),
    )
    torch.manual_seed(3)
    saved = NetworkPrior(NetworkConfig(widths=(8, 16), groups=4, embedding=32), "float32")
    for parameter in saved.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    saved.save(root / "saved")
    made = config.make(config.Config, {"out": "x", **SETTINGS, "init": str(root / "saved")}, "test")
    z, cpu = randn(2, 3, 16, 16), torch.device("cpu")
    assert torch.equal(weights.starting_prior(made, None, cpu).denoise(z, 0.5), saved.denoise(z, 0.5))
    masked = config.make(
        config.Config, {"out": "x", **SETTINGS, "init": str(root / "saved"), "objective": {"kind": "masked"}}, "test"
    )
    conditioned = weights.starting_prior(masked, 0.5, cpu)
    assert torch.allclose(conditioned.denoise(z, 0.5, torch.ones(2, 1, 16, 16)), saved.denoise(z, 0.5), atol=1e-5)
    assert conditioned.config.keep_probability == 0.5
    fresh = config.make(config.Config, {"out": "x", **SETTINGS}, "test")
    control = weights.starting_prior(fresh, None, cpu)
    assert not torch.allclose(control.denoise(z, 0.5), saved.denoise(z, 0.5), atol=1e-2)


def test_diffusers_pipeline_is_finetuned_and_stays_one(root):
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, add_attention=False, **blocks
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(root / "pipeline")
    config = configuration(root, "denoise", init=str(root / "pipeline"), validate_every=0)
    finish(start(root, config, "finetuned"))
    before, after = load_prior(root / "pipeline"), load_prior(root / "finetuned" / "prior")
    z = randn(2, 3, 16, 16)
    assert type(after) is type(before) and not torch.equal(after.denoise(z, 0.5), before.denoise(z, 0.5))


# A limit on the size of files is what a full disk looks like to a process; it bites in the middle of a checkpoint.
def test_full_disk_ends_in_one_sentence_with_the_last_checkpoint_intact(root):
    config = configuration(root, "denoise")
    finish(start(root, config, "full", "--images", "16", "--validate-every", "0"))
    kept = root / "full" / "checkpoint-4" / "ema.safetensors"
    before = kept.read_bytes()
    (root / "full" / "run.json").unlink()
    limit = f"ulimit -f {kept.stat().st_size // 1024 - 8}; exec "
    command = [sys.executable, str(TRAINERS / "train.py"), "--config", str(config), "--data-root", str(root)]
    command += ["--out", str(root / "full"), "--validate-every", "0"]
    environment = {**os.environ, **ENVIRONMENT}
    found = subprocess.run(
        ["bash", "-c", limit + '"$@"', "bash", *command], capture_output=True, text=True, env=environment, timeout=120
    )
    said = found.stderr.strip().splitlines()[-1]
    assert found.returncode == 2 and "Traceback" not in found.stderr, found.stderr
    assert "checkpoint-4 is intact" in said and kept.read_bytes() == before


def test_folder_that_cannot_be_written_is_one_sentence(root):
    (root / "file").write_text("in the way")
    said = finish(start(root, configuration(root, "denoise"), "file/out"), code=2)
    assert "cannot be read or written" in said and "Traceback" not in said


def test_averages_and_schedules_are_those_of_their_formulas(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINERS))
    config, train = (
        importlib.import_module("ambient_solve.training.config"),
        importlib.import_module("ambient_solve.training.loop"),
    )
    # The power-function average of a linear ramp x(t) = t is t (gamma + 1) / (gamma + 2).
    average, gamma = 0.0, 5.0
    for step in range(4000):
        keep = config.Ema(power=gamma).keep(step, 32)
        average = keep * average + (1 - keep) * (step + 1)
    assert average / 4000 == pytest.approx((gamma + 1) / (gamma + 2), rel=2e-3)
    late = [config.Ema(half_life=320).keep(step, 32) for step in range(1000, 1010)]
    assert np.prod(late) == pytest.approx(0.5), "ten steps of 32 are the half-life of 320 samples"
    made = {s: config.Config(out="x", schedule=s, warmup=0, decay=3200, batch=32) for s in ("constant", "inverse_sqrt")}
    assert train.learning_rate(made["constant"], 5000, 10_000) == 5e-4
    assert train.learning_rate(made["inverse_sqrt"], 400 - 1, 10_000) == pytest.approx(5e-4 / 2)
    assert train.learning_rate(config.Config(out="x"), 5000, 10_000) == pytest.approx(2.5e-4)


@pytest.mark.parametrize("file", ["gpu1", "gpu8", "nodes2", "fsdp"])
def test_shipped_launch_configurations_are_read_by_accelerate(file):
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(TRAINERS / "configs" / "accelerate" / f"{file}.yaml"))
    wanted = {"gpu1": ("NO", 1, 1), "gpu8": ("MULTI_GPU", 8, 1), "nodes2": ("MULTI_GPU", 16, 2), "fsdp": ("FSDP", 8, 1)}
    assert (str(found.distributed_type.value), found.num_processes, found.num_machines) == wanted[file]
    assert found.mixed_precision == "bf16"


SHARDED = """
import sys, torch, torch.distributed as dist
from pathlib import Path
sys.path[:0] = [{trainers!r}]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from ambient_solve.training.checkpoints import Checkpoints, stored_form
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from ambient_solve.priors.unet import Block

dist.init_process_group("gloo")
mesh, rank = init_device_mesh("cpu", (2,)), dist.get_rank()

def build():
    torch.manual_seed(0)
    prior = NetworkPrior(NetworkConfig(widths=(8, 16), groups=4, embedding=32), "float32")
    for block in [m for m in prior.modules() if isinstance(m, Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(prior, mesh=mesh)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-2)
    return prior, optimizer, {{k: v.detach().clone() for k, v in prior.state_dict().items()}}

def step(prior, optimizer, ema, n):
    for k in range(n):
        z = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(10 * k))[rank : rank + 1]
        (prior(z, 0.5) - 0.3 * z).square().mean().backward()
        optimizer.step(); optimizer.zero_grad()
        torch._foreach_lerp_(list(ema.values()), [v.detach() for v in prior.state_dict().values()], 0.1)

one = build(); step(*one, 3)
checkpoints = Checkpoints(Path({out!r}), rank == 0)
checkpoints.save(3, 1.0, one[0], one[2], one[1])
dist.barrier()
two = build()
assert checkpoints.load(two[0], two[2], two[1]) == (3, 1.0)
step(*one, 2); step(*two, 2)
for a, b in ((one[0].state_dict(), two[0].state_dict()), (one[2], two[2])):
    a, b = stored_form(a), stored_form(b)
    assert all(torch.equal(a[k], b[k]) for k in a)
if rank == 0:
    print("sharded", next(iter(one[2].values())).to_local().shape, "of", next(iter(one[2].values())).shape)
# Else its threads may outlive the interpreter, which then aborts.
dist.destroy_process_group()
"""


def test_sharded_state_is_stored_whole_and_resumed_bit_for_bit(tmp_path):
    """What FSDP does to parameters, averages and moments, on two CPU processes."""
    (tmp_path / "sharded.py").write_text(SHARDED.format(trainers=str(TRAINERS), out=str(tmp_path / "run")))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    environment = {**os.environ, **ENVIRONMENT}
    found = subprocess.run(
        [*command, str(tmp_path / "sharded.py")], capture_output=True, text=True, env=environment, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert "sharded" in found.stdout
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "run" / "checkpoint-3" / "model.safetensors")
    whole = NetworkPrior(NetworkConfig(widths=(8, 16), groups=4, embedding=32), "float32").state_dict()
    assert {k: v.shape for k, v in stored.items()} == {k: v.shape for k, v in whole.items()}
