"""Fine-tuning: every kind of prior starts as it was, learns, resumes bit for bit and stays what it was."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")
pytest.importorskip("peft", reason="LoRA needs peft: pip install 'ambient-solve[train]'")

from ambient_solve import AmbientSolveError, LatentPrior, NetworkConfig, NetworkPrior, load_prior  # noqa: E402
from ambient_solve.cli.dispatch import main  # noqa: E402
from ambient_solve.data.corruption import read_corrupted  # noqa: E402
from ambient_solve.data.loader import Loader  # noqa: E402
from ambient_solve.objectives.denoise import Denoise  # noqa: E402
from ambient_solve.priors.adm import Adm, AdmConfig  # noqa: E402
from ambient_solve.priors.ambient import AmbientPrior  # noqa: E402
from ambient_solve.priors.autoencoder import TAEF2  # noqa: E402
from ambient_solve.priors.convert import convert  # noqa: E402
from ambient_solve.priors.edm import Edm, EdmConfig  # noqa: E402
from ambient_solve.priors.edm2 import Edm2, Edm2Config  # noqa: E402
from ambient_solve.priors.pipeline import PipelinePrior  # noqa: E402
from ambient_solve.training.checkpoints import learned  # noqa: E402
from ambient_solve.training.config import Config, make  # noqa: E402
from ambient_solve.training.finetune import finetune, memory_report, planned  # noqa: E402
from ambient_solve.training.lora import ADAPTER, merge_lora, targets, trainable  # noqa: E402
from ambient_solve.training.weights import starting_prior  # noqa: E402
from helpers import one_sentence, randn  # noqa: E402
from pipelines import BUILDERS, stirred  # noqa: E402

SIDE, STEPS = 16, 8
CPU = torch.device("cpu")
TRAINERS = Path(__file__).resolve().parents[2] / "trainers"
PLAIN = {
    "sources": [{"path": "pictures", "held_out": 3}],
    "corruption": {"clean_share": 0.5, "damages": [{"kind": "noise", "sigma": 0.2}]},
    "crop": SIDE,
    "batch": 4,
    "images": 4 * STEPS,
    "lr": 2e-3,
    "warmup": 4,
    "ema": {"half_life": 10},
    "precision": "fp32",
    "schedule": "constant",
    "stats_every": 2,
    "checkpoint_every": 4,
    "validate_every": 0,
    "tracker": "none",
    "duplicates": False,
}
LORA = {"kind": "lora", "rank": 2}
MASKED = {"objective": {"kind": "masked"}, "corruption": {"clean_share": 0.2, "damages": [{"kind": "random-mask"}]}}
CONDITIONAL = {"objective": {"kind": "conditional"}, "corruption": {"clean_share": 1.0}}


def own(folder: Path) -> Path:
    prior = NetworkPrior(NetworkConfig(widths=(8, 16), groups=4, embedding=32))
    stirred(prior)
    prior.save(folder)
    return folder


def pipeline(folder: Path, **settings: object) -> Path:
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    unet = diffusers.UNet2DModel(
        sample_size=SIDE, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, attention_head_dim=4,
        **blocks, **settings,
    )  # fmt: skip
    diffusers.DDPMPipeline(stirred(unet), diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


def adm(folder: Path, classes: int = 0) -> Path:
    network = stirred(Adm(AdmConfig(3, 6, 8, (1, 2), 1, (1,), 4, True, True, classes)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder.with_suffix(".pt"))
    convert(folder.with_suffix(".pt"), "guided-diffusion", folder, head_channels=4)
    return folder


def edm(folder: Path, residual: bool = False) -> Path:
    size = EdmConfig(SIDE, 3, 3, 8, (8, 16), 1, (1,), 16, 32, taps=4, fourier=True, residual=residual)
    network = stirred(Edm(size))
    network.map_noise.freqs.copy_(torch.linspace(0.1, 2.0, 8))
    folder.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder.with_suffix(".pt"))
    convert(folder.with_suffix(".pt"), "edm", folder)
    return folder


def latent(folder: Path) -> Path:
    torch.manual_seed(0)
    network = NetworkPrior(NetworkConfig(channels=32, widths=(8,), unshuffle=1, embedding=8, scale=1.0, offset=0.0))
    stirred(network)
    LatentPrior(network, TAEF2(), 0.1 * torch.ones(32), 0.5 * torch.ones(32)).save(folder)
    return folder


PIXELS = {"own": own, "pipeline": pipeline, "adm": adm, "edm": edm}
LATENTS = {"latent": latent, **{name: BUILDERS[name] for name in ("LDMPipeline", "StableDiffusionPipeline")}}
LATENTS |= {"DiTPipeline": BUILDERS["DiTPipeline"]}
COND = {"StableDiffusionPipeline": "a cat", "DiTPipeline": "3"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("finetune")
    (root / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for k in range(12):
        coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(root / "pictures" / f"{k:02d}.png")
    return root


@pytest.fixture
def given(root):
    """The folder of a prior by its kind, made at first use."""

    def of(kind: str) -> Path:
        if kind == "StableDiffusionPipeline":
            pytest.importorskip("transformers", reason="needs transformers: pip install 'ambient-solve[latent]'")
        folder = root / "given" / kind / "prior"
        return folder if folder.is_dir() else (PIXELS | LATENTS)[kind](folder)

    return of


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def settings(root: Path, out: Path, init: Path, **changes: object) -> Config:
    text = {"out": str(out), "data_root": str(root), "init": str(init), **PLAIN, **changes}
    return make(Config, text, "test")


def started(config: Config, keep: float | None = None) -> tuple:
    """The prior as training begins, in evaluation mode, and the configuration that it was made by."""
    config, _ = planned(config)
    return starting_prior(config, keep, CPU).eval(), config


# Step 0 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("objective", ["denoise", "masked", "conditional"])
def test_step_0_is_the_given_prior_to_the_bit(kind, objective, tuning, root, given, tmp_path):
    changes = {"denoise": {}, "masked": MASKED, "conditional": CONDITIONAL}[objective]
    prior, config = started(
        settings(root, tmp_path, given(kind), **changes, tuning={"kind": tuning}),
        0.6 if objective == "masked" else None,
    )
    saved, z = load_prior(given(kind)), randn(2, 3, SIDE, SIDE)
    saved.channels_last = False  # frozen, it would be computed in another order than one that learns
    more = config.objective.mask_channels
    cond = torch.ones(2, more, SIDE, SIDE) if objective == "masked" else randn(2, more, SIDE, SIDE) if more else None
    expected = saved.denoise(z, 0.5)
    assert torch.equal(prior.denoise(z, 0.5, cond), expected)
    if objective == "masked":  # and what is seen is as before, where a part is hidden
        cond[..., :5] = 0
        part, before = prior.denoise(cond * z, 0.5, cond), saved.denoise(cond * z, 0.5)
        assert torch.equal(part[..., 5:], before[..., 5:]) and not torch.equal(part[..., :5], before[..., :5])
    with torch.no_grad():  # the control: what learns does count
        for tensor in learned(prior).values():
            tensor.add_(randn(*tensor.shape))
    assert not torch.allclose(prior.denoise(z, 0.5, cond), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["own", "adm", "pipeline"])
def test_lora_learns_few_weights_and_its_product_with_low_rank(kind, root, given, tmp_path):
    prior, config = started(settings(root, tmp_path, given(kind), tuning=LORA))
    learns, every = trainable(prior.network)
    assert 0 < learns < 0.25 * every and all("lora_" in name for name in learned(prior))
    z = randn(1, 3, SIDE, SIDE)
    before = {n: m.weight.clone() for n, m in prior.network.named_modules() if n.endswith("base_layer")}
    with torch.no_grad():
        for tensor in learned(prior).values():
            tensor.copy_(0.3 * randn(*tensor.shape, seed=tensor.numel()))
    beside = prior.denoise(z, 0.5)
    merge_lora(prior.network)
    torch.testing.assert_close(prior.denoise(z, 0.5), beside, rtol=1e-4, atol=1e-4)
    assert not any("lora" in name for name in prior.network.state_dict()) and before
    for name, weight in before.items():
        change = (prior.network.get_submodule(name.removesuffix(".base_layer")).weight - weight).detach()
        assert int(torch.linalg.matrix_rank(change.flatten(1), atol=1e-4)) <= 2 and float(change.norm()) > 0


def test_lora_goes_where_attention_is(root, given, tmp_path):
    network = load_prior(given("pipeline")).network
    some, every = targets(network, "auto"), targets(network, "all")
    assert some and all(name.split(".")[-1] in ("to_q", "to_k", "to_v", "0") for name in some) and set(some) < {*every}
    plain = load_prior(given("own")).network
    assert targets(plain, "auto") == targets(plain, "all") and "enter" in targets(plain, "all")
    with pytest.raises(AmbientSolveError, match="has none") as error:
        targets(plain, "attention")
    assert one_sentence(error)


# Whole runs -----------------------------------------------------------------------------------------------------------


class Stop(Exception):
    """A power cut."""


def weights_of(folder: Path) -> dict[str, Tensor]:
    return {
        f"{file.parent.name}/{file.name}/{k}": v
        for file in sorted(folder.rglob("*.safetensors"))
        for k, v in load_file(file).items()
    }


@pytest.mark.parametrize("kind, tuning", [("own", "full"), ("own", "lora"), ("adm", "lora"), ("own", "eight_bit")])
def test_a_run_that_was_cut_off_resumes_bit_for_bit(kind, tuning, root, given, tmp_path, monkeypatch):
    if tuning == "eight_bit":
        pytest.importorskip("bitsandbytes", reason="8-bit moments need bitsandbytes")
    asked = {"kind": "full", "eight_bit": True} if tuning == "eight_bit" else {"kind": tuning, "rank": 2}

    def run(out: str) -> Path:
        return finetune(settings(root, tmp_path / out, given(kind), tuning=asked))

    whole, call = weights_of(run("whole").parent), Loader.__call__

    def cut(self, step, *rest):
        if step == 6:
            raise Stop
        return call(self, step, *rest)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Loader, "__call__", cut)
        run("cut")
    assert (tmp_path / "cut" / "checkpoint-4").is_dir() and not (tmp_path / "cut" / "prior").exists()
    again = weights_of(run("cut").parent)
    assert whole.keys() == again.keys() and all(torch.equal(whole[k], again[k]) for k in whole)
    first = load_file(tmp_path / "whole" / "checkpoint-4" / "model.safetensors")  # the control: it goes on learning
    last = load_file(tmp_path / "whole" / f"checkpoint-{STEPS}" / "model.safetensors")
    assert any(not torch.equal(first[k], last[k]) for k in first)


@pytest.mark.parametrize("kind", [*PIXELS, *LATENTS])
def test_a_fine_tuned_prior_is_of_the_kind_that_it_was(kind, root, given, tmp_path):
    if kind == "latent":
        changes = {"crop": SIDE}
    else:
        changes = {} if kind in PIXELS else {"corruption": {"damages": [{"kind": "noise", "sigma": 0.3}]}}
    config = settings(root, tmp_path / "out", given(kind), tuning=LORA | {"cond": COND.get(kind, "")}, **changes)
    out = finetune(config)
    before, after = load_prior(given(kind)), load_prior(out)
    assert type(before) is type(after) and before.shape == after.shape
    z = randn(1, before.shape[0], *((SIDE, SIDE) if kind in PIXELS else (8, 8) if kind != "latent" else (2, 2)))
    cond = {"StableDiffusionPipeline": "a cat", "DiTPipeline": 3}.get(kind)
    one, two = before.denoise(z, 1.0, cond), after.denoise(z, 1.0, cond)
    assert torch.isfinite(two).all() and 1e-6 < float((one - two).norm() / one.norm()) < 1
    if isinstance(before, LatentPrior):
        x = torch.rand(1, 3, SIDE, SIDE)
        torch.testing.assert_close(before.encode(x), after.encode(x), rtol=1e-2, atol=1e-2)
    assert (tmp_path / "out" / ADAPTER / "adapter_config.json").is_file()
    assert "tuning" in (out / "README.md").read_text()
    found = memory_report(config)
    assert found is not None and found.held_out == 3
    assert json.loads((tmp_path / "out" / "memorization.json").read_text())["samples"] == found.samples


def test_a_network_that_preserves_magnitudes_learns_as_a_whole(root, tmp_path):
    network = stirred(Edm2(Edm2Config(SIDE, 3, (8, 8), 1, (1,), 8, 16)))
    torch.save(network.state_dict(), tmp_path / "net.pt")
    before = convert(tmp_path / "net.pt", "edm2", tmp_path / "prior")
    refused(lambda: finetune(settings(root, tmp_path / "lora", tmp_path / "prior", tuning=LORA)), "choose kind: full")
    after = load_prior(finetune(settings(root, tmp_path / "out", tmp_path / "prior")))
    z = randn(1, 3, SIDE, SIDE)
    one, two = before.denoise(z, 1.0), after.denoise(z, 1.0)
    assert type(after.network.network) is Edm2 and 1e-6 < float((one - two).norm() / one.norm()) < 1


@pytest.mark.parametrize("kind", PIXELS)
def test_masked_data_make_a_prior_of_masks(kind, root, given, tmp_path):
    prior = load_prior(finetune(settings(root, tmp_path / "out", given(kind), **MASKED)))
    assert isinstance(prior, AmbientPrior) and 0 < prior.keep_probability < 1 and prior.mask_channels == 1
    z, mask = randn(2, 3, SIDE, SIDE), torch.ones(1, SIDE, SIDE)
    mask[:, 4:8] = 0
    hidden = z * mask + 5 * (1 - mask)
    seen = prior.with_mask(mask)
    assert torch.equal(seen.denoise(z, 0.5), seen.denoise(hidden, 0.5)), "what is hidden does not count"
    assert not torch.equal(seen.denoise(z, 0.5), prior.with_mask(0 * mask + 1).denoise(z, 0.5))


def test_a_conditional_network_is_shown_the_measurement(root, given, tmp_path):
    prior = PipelinePrior.load(finetune(settings(root, tmp_path / "out", given("pipeline"), **CONDITIONAL)))
    z, cond = randn(1, 3, SIDE, SIDE), randn(1, 4, SIDE, SIDE, seed=1)
    assert not torch.equal(prior.denoise(z, 0.5, cond), prior.denoise(z, 0.5, 0 * cond))
    with pytest.raises(AmbientSolveError, match="shown 4 mask_channels") as error:
        prior.denoise(z, 0.5)
    assert one_sentence(error)


def test_the_noise_of_latents_is_in_the_latents_and_drawn_once(root, given, tmp_path):
    noise = {"clean_share": 0.0, "damages": [{"kind": "noise", "sigma": 0.3}]}
    config = settings(root, tmp_path / "out", given("latent"), corruption=noise, mirror=True)
    inner, prior = planned(config)
    folder = Path(inner.sources[0].path.removeprefix("corrupted:"))
    samples, names = list(read_corrupted(folder)), sorted((root / "pictures").iterdir())
    assert len(samples) == 2 * 9 + 3 and inner.crop == SIDE // 8 and not inner.mirror
    assert [s.sigma_noise for s in samples] == [pytest.approx(0.3)] * 18 + [0.0] * 3
    x = torch.stack([torch.from_numpy(np.array(Image.open(name))).permute(2, 0, 1) / 255 for name in names])
    clean = prior.encode(torch.cat([x[:9].repeat_interleave(2, 0), x[9:]]))
    clean[1:18:2] = prior.encode(x[:9].flip(-1))
    error = torch.stack([s.z.float() for s in samples]) - clean
    assert float(error[18:].abs().max()) < 0.01 and float(error[:18].std()) == pytest.approx(0.3, rel=0.05)
    before = (folder / "000000.safetensors").read_bytes()
    planned(config)
    assert (folder / "000000.safetensors").read_bytes() == before


def test_levels_below_the_noise_of_the_data_are_left_to_the_prior_or_learned_by_consistency(
    root, given, tmp_path, capsys
):
    noise = {"clean_share": 0.0, "damages": [{"kind": "noise", "sigma": 0.3}]}
    seen, loss = [], Denoise.loss

    def recorded(self, denoise, batch, streams):
        seen.append(batch.sigma)
        return loss(self, denoise, batch, streams)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Denoise, "loss", recorded)
        finetune(settings(root, tmp_path / "a", given("adm"), corruption=noise))
    assert float(torch.cat(seen).min()) > 0.3 * (4 / 3) ** 0.5 * 0.999
    assert "below sigma = 0.346" in capsys.readouterr().err
    objective = {"kind": "consistency", "steps": 1}
    out = finetune(settings(root, tmp_path / "b", given("adm"), corruption=noise, objective=objective, images=8))
    assert load_prior(out).denoise(randn(1, 3, SIDE, SIDE), 0.1).isfinite().all()


def test_the_command_says_what_was_memorized(root, given, tmp_path, capsys, monkeypatch):
    changes = {"data_root": str(root), "init": str(given("own")), "tuning": LORA, "out": str(tmp_path / "out")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**PLAIN, **changes, "images": 8}))
    assert main(["finetune", "--config", str(tmp_path / "run.yaml")]) == 0
    said = capsys.readouterr().out
    assert "The prior is in" in said and "recalled at 50 % noise, of 9 training pictures" in said
    monkeypatch.syspath_prepend(str(TRAINERS))
    monkeypatch.setattr(sys, "argv", ["finetune.py", "--config", str(tmp_path / "run.yaml"), "--init", "nowhere"])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module("finetune").main()
    assert stop.value.code == 2 and "There is no prior 'nowhere'" in capsys.readouterr().err


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PIXELS)
def test_checkpointing_stores_less_and_learns_the_same(kind, root, given, tmp_path):
    found = []
    for checkpointing in (False, True):
        tuning = {"checkpointing": checkpointing}
        prior = starting_prior(planned(settings(root, tmp_path, given(kind), tuning=tuning))[0], None, CPU)
        stored = []
        keep = lambda t, stored=stored: stored.append(t.numel()) or t  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = prior.denoise(randn(2, 3, SIDE, SIDE), 0.5).square().mean()
        loss.backward()
        found.append((sum(stored), [p.grad for p in prior.parameters()]))
    (much, plain), (little, again) = found
    assert little < 0.6 * much and all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


# What is refused ------------------------------------------------------------------------------------------------------


def refused(make, *words: str) -> None:
    with pytest.raises(AmbientSolveError) as error:
        make()
    print(f"\n{error.value}")
    assert one_sentence(error) and all(word in str(error.value) for word in words)


@pytest.mark.parametrize("package, tuning", [("peft", LORA), ("bitsandbytes", {"eight_bit": True})])
def test_what_is_not_installed_is_named(package, tuning, root, given, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    refused(lambda: finetune(settings(root, tmp_path, given("own"), tuning=tuning)), f"needs {package}", "pip install")


def test_priors_that_do_not_fit_the_run_are_refused(root, given, tmp_path):
    def run(kind: str, **changes: object) -> object:
        return lambda: finetune(settings(root, tmp_path / "out", given(kind), **changes))

    refused(lambda: finetune(replace(settings(root, tmp_path, given("own")), init="")), "--init photos")
    refused(run("own", tuning={"kind": "lora", "rank": 0}), "rank of 1 or more")
    refused(run("own", tuning={"cond": "a cat"}), "leave cond out")
    refused(run("pipeline", tuning={"cond": "3"}), "unconditional", "leave cond out")
    refused(run("LDMPipeline", tuning={"cond": "3"}), "unconditional", "leave cond out")
    refused(run("DiTPipeline", tuning={"cond": "12"}), "cond=12", "0 to 9")
    blurred = {"damages": [{"kind": "gaussian-blur"}]}
    refused(run("LDMPipeline", corruption=blurred), "gaussian-blur", "noise alone")
    refused(run("LDMPipeline", objective={"kind": "masked"}), "prior of latents", "kind: denoise")
    refused(run("latent", crop=12), "crop = 12", "multiple of 8")
    refused(run("own", sources=[{"path": "pictures", "held_out": 3, "shrink": 2}]), "smaller than the crop")
    if not (root / "classes").is_dir():
        adm(root / "classes", 5)
    refused(lambda: finetune(settings(root, tmp_path, root / "classes")), "cond = ''", "0 to 4")
    refused(lambda: finetune(settings(root, tmp_path, root / "classes", **MASKED)), "network of classes")
    if not (root / "residual").is_dir():
        edm(root / "residual", residual=True)
    refused(
        lambda: finetune(settings(root, tmp_path, root / "residual", **MASKED)), "cannot be shown 1 mask", "denoise"
    )
    refused(lambda: finetune(settings(root, tmp_path, root / "nothing")), "no prior", "nothing")
    masked = finetune(settings(root, tmp_path / "masked", given("own"), **MASKED, images=4))
    refused(lambda: finetune(settings(root, tmp_path / "next", masked)), "shown 1 mask channels", "kind: masked")
    words = {"kind": "full", "cond": "a" + " b" * 80}
    refused(run("StableDiffusionPipeline", tuning=words), "83 tokens", "shorten")


def test_a_restoration_network_is_no_start(root, tmp_path):
    import deepinv

    torch.save(deepinv.models.DnCNN(3, 3, pretrained=None).state_dict(), tmp_path / "net.pth")
    convert(tmp_path / "net.pth", "deepinv", tmp_path / "prior")
    refused(lambda: finetune(settings(root, tmp_path / "out", tmp_path / "prior")), "restoration network")


@pytest.mark.parametrize(
    "text", ['{"mask_channels": 0}', '{"mask_channels": "many"}', '{"mask_channels": 1, "keep_probability": 2}', "[]"]
)
def test_an_untrusted_conditioning_is_refused(text, root, tmp_path):
    pipeline(tmp_path / "prior")
    (tmp_path / "prior" / "conditioning.json").write_text(text)
    refused(lambda: load_prior(tmp_path / "prior"), "conditioning.json", "mask_channels")


def test_weights_that_do_not_fit_are_refused(root, given, tmp_path):
    """A checkpoint with a tensor too few or too many, as --init and as the state of a run."""
    state = load_file(given("own") / "model.safetensors")
    for name, changed, words in (
        ("missing", {k: v for k, v in state.items() if k != "enter.bias"}, "enter.bias is missing"),
        ("extra", {**state, "more": torch.zeros(1)}, "more is not expected"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes((given("own") / "config.json").read_bytes())
        save_file(changed, tmp_path / name / "model.safetensors")
        refused(lambda folder=tmp_path / name: finetune(settings(root, tmp_path / "o", folder)), words)
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / "config.json").write_bytes((given("own") / "config.json").read_bytes())
    torch.save(nn.Linear(1, 1), tmp_path / "pickle" / "model.bin")
    refused(lambda: finetune(settings(root, tmp_path / "o", tmp_path / "pickle")), "model.bin, a pickle")
