"""The tab for scans when something is wrong with a file, and its details; what programs and the terminal read."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ambient_solve.app import runs
from ambient_solve.app.photographs import controls
from ambient_solve.app.scans import events as scan_events
from ambient_solve.app.scans.values import ScanControls
from ambient_solve.cli.dispatch import main
from ambient_solve.errors import AmbientSolveError
from ambient_solve.mri.scan import read_scan
from test_app_endpoints import connect
from test_app_mri import merged, tiny, two_slices, values


@pytest.fixture
def prior_of_scans(tmp_path) -> str:
    tiny().save(tmp_path / "scans", card="# tiny\nRandom weights.\n")
    return str(tmp_path / "scans")


@pytest.fixture
def scan_file(tmp_path) -> Path:
    return two_slices(tmp_path)


def refused(given: ScanControls) -> tuple[dict, str]:
    """The updates before the error, and its words."""
    updates = {}
    with pytest.raises(AmbientSolveError) as error:
        for update in scan_events.put_in(given):
            updates |= update
    return updates, str(error.value)


def test_a_refused_scan_leaves_the_box_and_the_one_before_stays(scan_file, tmp_path):
    pytest.importorskip("gradio")
    up = next(scan_events.put_in(values(files=[str(scan_file)])))
    (tmp_path / "letter.npz").write_bytes(b"Dear Sir")
    updates, words = refused(values(session=up["session"], files=[str(tmp_path / "letter.npz")]))
    assert "letter.npz cannot be read; it is no such file" in words and "takes two.npz" in updates["status"]
    assert updates["files"] is None and "mask" not in updates
    assert refused(values(session=up["session"], mask=str(tmp_path / "letter.npz")))[0]["mask"] is None
    assert "two.npz, slice 1" in merged(scan_events.reconstruct_chosen(values(session=up["session"], index=1)))["words"]
    assert len(list(up["session"].folder.rglob("*.npz"))) == 3, "the scan, its view, its result"
    # Control: what a field of the page may still help to read stays in the box.
    np.savez(tmp_path / "both.npz", first=np.zeros(3), second=np.zeros(3))
    assert "files" not in refused(values(session=up["session"], files=[str(tmp_path / "both.npz")]))[0]


def test_a_run_that_fails_leaves_no_run_behind(scan_file):
    pytest.importorskip("gradio")
    up, seen = scan_events.upload(values(files=[str(scan_file)])), {}
    with pytest.raises(AmbientSolveError, match="lower the acceleration"):
        for update in scan_events.reconstruct_chosen(values(session=up["session"], acceleration=40.0)):
            seen |= update
    assert seen["stop"]["interactive"] is False and "lower the acceleration" in seen["status"]
    assert seen["words"] == "Not reconstructed yet." and seen["panel_mean"]["value"] is None and seen["shell"] == ""


def test_a_run_that_is_asked_to_stop_says_so_and_ends(scan_file):
    pytest.importorskip("gradio")
    up = scan_events.upload(values(files=[str(scan_file)]))
    updates = scan_events.reconstruct_chosen(values(session=up["session"], samples=4))
    assert next(updates)["stop"]["interactive"] is True
    asked = runs.stop(ScanControls(session=up["session"]))
    assert "Stopping" in asked["status"] and asked["stop"]["interactive"] is False
    rest = list(updates)
    assert "Stopped. Nothing kept" in rest[-2]["status"] and rest[-1]["stop"]["interactive"] is False
    # Control: the next run is not stopped.
    assert "Finished" in merged(scan_events.reconstruct_chosen(values(session=up["session"], samples=1)))["status"]


def test_errors_name_the_fields_of_the_page(tmp_path):
    pytest.importorskip("gradio")
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    kspace = np.ones((40, 40, 40), np.complex64)
    np.savez(tmp_path / "cube.npz", kspace=kspace)
    np.savez(tmp_path / "both.npz", first=kspace, second=kspace)
    with h5py.File(tmp_path / "cube.h5", "w") as file:
        file["kspace"] = kspace
    for name, axes, field in (
        *(("cube.npz", "", "Axes"), ("cube.npz", "chww", "Axes")),
        *(("cube.h5", "", "Axes"), ("both.npz", "", "Array")),
    ):
        words = refused(values(files=[str(tmp_path / name)], axes=axes))[1]
        assert f"{field}, under More about the scan" in words
        assert "axes=" not in words and "KEY" not in words, words
        with pytest.raises(AmbientSolveError, match="axes=|KEY"):  # control: what the library says
            read_scan(tmp_path / name, axes=axes or None)


@pytest.mark.parametrize("method", ["cg-sense", "prior"])
def test_details_hold_the_command_that_repeats_the_run(method, scan_file, prior_of_scans, monkeypatch):
    pytest.importorskip("gradio")
    pytest.importorskip("nibabel", reason="needs nibabel")
    monkeypatch.chdir(scan_file.parent)
    up = scan_events.upload(values(files=[str(scan_file)]))
    chosen = {"method": method, "prior": prior_of_scans, "knobs": {"steps": 2, "draw": True}, "seed": 3, "index": 1}
    seen = merged(scan_events.reconstruct_chosen(values(session=up["session"], **chosen)))
    assert seen["details"]["method"] == method and seen["details"]["R"] == pytest.approx(2, rel=0.1)
    assert main([*shlex.split(seen["shell"])[1:], "--out", "again"]) == 0
    made, again = (f / "reconstruction.npz" for f in (up["session"].result(1), Path("again/two/slice-001")))
    with np.load(made) as mine, np.load(again) as theirs:
        scale = np.abs(mine["mean"]).max()
        assert np.allclose(mine["samples"], theirs["samples"], atol=1e-4 * scale)
        other = merged(scan_events.reconstruct_chosen(values(session=up["session"], **{**chosen, "seed": 4})))
        assert other["shell"] != seen["shell"]
        with np.load(made) as changed:
            assert not np.allclose(changed["samples"], theirs["samples"], atol=1e-4 * scale), "control: another seed"


def test_the_endpoint_for_pictures_needs_no_mask_and_describes_its_options(server, tmp_path):
    from gradio_client import handle_file

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(tmp_path / "old.png")
    client, given = connect(server), {"file": handle_file(str(tmp_path / "old.png"))}
    record = client.predict(**given, task="denoise", options={"sigma": 0.1}, samples=1, api_name="/restore")[1]
    assert record["damage"]["sigma"] == 0.1
    with pytest.raises(Exception, match="mask"):  # control: a task that needs one says so
        client.predict(**given, task="inpaint", options={}, api_name="/restore")
    described = client.view_api(return_format="dict", print_info=False)["named_endpoints"]["/restore"]["description"]
    for task in controls.TASK_WORDS:
        for name in controls.task_knobs(task):
            assert f"{name} (" in described
    assert "factor (super-resolution)" in described and "2 to 16" in described and "{options}" not in described


@pytest.mark.parametrize(("missing", "method"), [("nibabel", "zero-filled"), ("sigpy", "tv")])
def test_the_command_asks_for_its_packages_before_it_computes(missing, method, capsys, monkeypatch):
    find = importlib.util.find_spec
    there = lambda name, *package: None if name == missing else find(name, *package)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", there)
    assert main(["mri", "gone.npy", "--method", method]) == 2
    said = capsys.readouterr().err
    assert said.startswith(missing) and "pip install 'ambient-solve[mri]'" in said
    monkeypatch.undo()
    assert main(["mri", "gone.npy", "--method", "zero-filled"]) == 2
    assert "no file gone.npy" in capsys.readouterr().err, "control: with them the scan is looked for"


def test_the_terminal_speaks_of_options_not_of_python(prior_folder, monkeypatch, capfd):
    gradio = pytest.importorskip("gradio")
    from ambient_solve.app.page import launch

    monkeypatch.setattr(gradio.Blocks, "block_thread", lambda self: None)
    page, address = launch(prior_folder, "cpu")
    page.close()
    said = capfd.readouterr()
    assert address in said.out and "--share" in said.out and "launch()" not in said.out + said.err
