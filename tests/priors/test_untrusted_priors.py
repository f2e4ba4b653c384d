"""Priors of others: configurations that would build networks of gigabytes, or call what is no scheduler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ambient_solve.app.scans.job import KINDS, ScanRequest
from ambient_solve.cli.dispatch import main
from ambient_solve.errors import AmbientSolveError
from ambient_solve.operators import kspace_masks
from ambient_solve.priors.load import embedded_priors, load_prior
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from helpers import one_sentence

DEEP = "[" * 100_000


@pytest.fixture
def folder(tmp_path) -> Path:
    NetworkPrior(NetworkConfig(widths=(8, 16), groups=4, embedding=16)).save(tmp_path / "prior", card="# tiny\n")
    return tmp_path / "prior"


@pytest.fixture
def made(monkeypatch) -> list:
    """The sizes of the convolutions that were really made, not only laid out."""
    seen, reset = [], torch.nn.Conv2d.reset_parameters

    def counted(self):
        if self.weight.device.type != "meta":
            seen.append(tuple(self.weight.shape))
        return reset(self)

    monkeypatch.setattr(torch.nn.Conv2d, "reset_parameters", counted)
    return seen


HOSTILE = {
    "wide": {"widths": [1_000_000, 1_000_000]},
    "wider than the file": {"widths": [4096, 8192]},
    "deep": {"blocks": 10**9},
    "many levels": {"widths": [8] * 1000},
    "no levels": {"widths": []},
    "words for widths": {"widths": "8, 16"},
    "halves": {"widths": [8.5, 16]},
    "true": {"channels": True},
    "no channels": {"channels": 0},
    "a word": {"channels": "3"},
    "a row": {"blocks": [1]},
    "unshuffled": {"unshuffle": 10**6},
    "groups that do not divide": {"groups": 7},
    "no groups": {"groups": 0},
    "embedding": {"embedding": 10**9},
    "endless": {"sigma_max": float("inf")},
    "no number": {"sigma_data": float("nan")},
    "levels that fall": {"sigma_min": 10.0, "sigma_max": 1.0},
    "no scale": {"scale": 0},
    "size": {"size": [10**9, 10**9]},
    "size of three": {"size": [8, 8, 8]},
    "a number of 400 digits": {"offset": 10**400},
    "mask_channels": {"mask_channels": 10**6},
    "null": {"sigma_min": None},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_configuration_builds_nothing(case, folder, made, capsys):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **HOSTILE[case]}))
    with pytest.raises(AmbientSolveError) as error:
        load_prior(folder)
    assert one_sentence(error) and made == []
    assert main(["info", str(folder)]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("text", [DEEP, "[1]", "3", "null", "{", '{"a": ' * 50_000, "\xff", ""])
def test_a_configuration_that_is_none_is_a_sentence(text, folder):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(AmbientSolveError) as error:
        load_prior(folder)
    assert one_sentence(error)


def test_good_configurations_still_load(folder, made):
    load_prior(folder)
    assert made, "control: the layers of a good prior are made"
    for name in embedded_priors():
        NetworkPrior.load(Path(kspace_masks.__file__).parents[1] / "priors" / "weights" / name)


def test_a_card_writes_to_the_terminal_what_is_text(folder, capsys):
    (folder / "README.md").write_bytes(b"# card\n\x1b[2Jgone\xff\n" + b"x" * 10**6)
    assert main(["info", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "# card\n\\x1b[2Jgone" in said and "\x1b" not in said and len(said) < 200_000


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers")
    from ambient_solve.priors.pipeline import PipelinePrior

    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1, "sample_size": 16}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = diffusers.UNet2DModel(**sizes, **blocks, add_attention=False)
    folder = tmp_path_factory.mktemp("pipeline") / "p"
    scheduler = {**diffusers.DDPMScheduler().config, "_class_name": "DDPMScheduler"}
    scheduler.pop("_use_default_values", None)  # of which diffusers passes over the values
    PipelinePrior(unet, scheduler).save(folder)
    return folder


def changed(pipeline, tmp_path, file, change) -> Path:
    import shutil

    shutil.copytree(pipeline, tmp_path / "p")
    path = tmp_path / "p" / file
    path.write_text(change if isinstance(change, str) else json.dumps({**json.loads(path.read_text()), **change}))
    return tmp_path / "p"


SCHEDULER, UNET = "scheduler/scheduler_config.json", "unet/config.json"
PIPELINES = {
    "no scheduler but a pipeline": (SCHEDULER, {"_class_name": "DiffusionPipeline"}),
    "a model": (SCHEDULER, {"_class_name": "UNet2DModel"}),
    "a function": (SCHEDULER, {"_class_name": "logging"}),
    "the base itself": (SCHEDULER, {"_class_name": "SchedulerMixin"}),
    "a number for a name": (SCHEDULER, {"_class_name": 3}),
    "endless steps": (SCHEDULER, {"num_train_timesteps": 10**10}),
    "endless steps of a flow": (
        SCHEDULER,
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 10**10},
    ),
    "steps in words": (SCHEDULER, {"num_train_timesteps": "1000"}),
    "no steps": (SCHEDULER, {"num_train_timesteps": 0}),
    "betas in words": (SCHEDULER, {"beta_start": "much"}),
    "negative betas": (SCHEDULER, {"beta_start": -1.0, "beta_end": -0.5}),
    "an unknown schedule": (SCHEDULER, {"beta_schedule": "steep"}),
    "a prediction that is a row": (SCHEDULER, {"prediction_type": ["epsilon"]}),
    "a row": (SCHEDULER, "[1]"),
    "nested": (SCHEDULER, DEEP),
    "a wide UNet": (UNET, {"block_out_channels": [1_000_000, 1_000_000]}),
    "wider than its weights": (UNET, {"block_out_channels": [4096, 8192]}),
    "many layers": (UNET, {"layers_per_block": 10**9}),
    "widths in words": (UNET, {"block_out_channels": "8, 8"}),
    "an unknown block": (UNET, {"down_block_types": ["os.system", "DownBlock2D"]}),
    "a nested UNet": (UNET, DEEP),
    "another network": (UNET, {"_class_name": "AutoencoderKL"}),
}


@pytest.mark.parametrize("case", PIPELINES)
def test_a_hostile_pipeline_builds_nothing(case, pipeline, tmp_path, made):
    folder = changed(pipeline, tmp_path, *PIPELINES[case])
    with pytest.raises(AmbientSolveError) as error:
        load_prior(folder)
    assert one_sentence(error)
    assert all(max(shape) <= 64 for shape in made)


def test_a_good_pipeline_still_loads(pipeline, tmp_path):
    assert load_prior(pipeline).prediction == "epsilon"
    assert load_prior(changed(pipeline, tmp_path, SCHEDULER, {"prediction_type": "v_prediction"})).prediction[0] == "v"


WRONG = {
    "acceleration": [-1, 0, float("nan"), float("inf"), 65, "2", None, True],
    "coils": [-1, 10**9, 2.0, None],
    "acs": [-1, 0, 10**9, 8.5],
    "samples": [0, -1, 10**9],
    "seed": [-1, 2**63, 0.5],
    "kind": ["", "all", None, 3],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_request_of_a_scan_is_in_range(name):
    for value in WRONG[name]:
        with pytest.raises(AmbientSolveError) as error:
            ScanRequest(**{name: value})
        assert one_sentence(error)
    assert ScanRequest().acceleration == 1 and ScanRequest(acceleration=4, coils=0, kind="spiral").coils == 0
    assert set(kspace_masks.KINDS) == set(KINDS)


def test_the_endpoint_refuses_a_request_before_it_reads(tmp_path):
    pytest.importorskip("gradio")
    from ambient_solve.app.scans import api

    given = {"files": [str(tmp_path / "gone.h5")], "method": "zero-filled", "prior": "", "kind": "random"}
    for acceleration, options, words in ((-1, {}, "acceleration = -1"), (1.0, {"coils": 10**9}, "coils = 1000000000")):
        with pytest.raises(AmbientSolveError, match=words):
            list(api.reconstructed({**given, "acceleration": acceleration, "options": options}, "cpu"))


def test_the_command_refuses_a_request_that_is_out_of_range(capsys):
    for flags in (("--acceleration", "-1"), ("--coils", "1000000000")):
        assert main(["mri", "gone.h5", "--method", "zero-filled", *flags]) == 2
        assert "expected" in capsys.readouterr().err
