"""The tab for scans: its requests, runs and views, and what is never given away; the endpoint /mri through a server."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve import NetworkConfig, NetworkPrior
from ambient_solve.app.rules import Rules
from ambient_solve.app.scans import choices, events, example, job, panels, results
from ambient_solve.app.scans.job import ScanRequest
from ambient_solve.app.scans.panels import Look
from ambient_solve.app.scans.values import ScanControls
from ambient_solve.errors import AmbientSolveError
from ambient_solve.mri.problem import problem
from ambient_solve.mri.reconstruction import reconstruct, retrospective
from ambient_solve.mri.scan import read_scan
from test_app_endpoints import connect
from test_mri_data import contents, disc, write_dicom

HEIGHT, WIDTH = 40, 48


def tiny(mask_channels: int = 0) -> NetworkPrior:
    torch.manual_seed(0)
    config = NetworkConfig(channels=2, widths=(8, 16), groups=4, mask_channels=mask_channels)
    return NetworkPrior(config).eval().requires_grad_(False)


def two_slices(folder: Path) -> Path:
    """Two slices, fully sampled, stored as k-space."""
    Image.fromarray((255 * disc(HEIGHT, WIDTH) / disc(HEIGHT, WIDTH).max()).byte().numpy()).save(folder / "disc.png")
    kspace = job.read_upload(folder / "disc.png").kspace.numpy()
    np.savez(folder / "two.npz", kspace=np.concatenate([kspace, 2 * kspace]))
    return folder / "two.npz"


@pytest.fixture
def scan_file(tmp_path) -> Path:
    return two_slices(tmp_path)


def values(**changes) -> ScanControls:
    given = {"acceleration": 2.0, "acs": 12, "coils": 4, "method": "cg-sense", "prior": "", "device": "cpu"}
    given |= {"rules": Rules(any_prior=True), "algorithm": "proximal", "knobs": {"steps": 2}, "samples": 2}
    return ScanControls.read({**given, "row": 20, "column": 24, **changes})


def merged(updates) -> dict:
    return {name: value for update in updates for name, value in update.items()}


@pytest.mark.parametrize("mask_channels", [0, 1])
def test_a_run_makes_what_the_library_makes(scan_file, mask_channels):
    prior, scan = tiny(mask_channels), job.read_upload(scan_file)
    request = ScanRequest("prior", (1,), "random", 2.0, 12, "proximal", {"steps": 3}, samples=3, seed=5, coils=4)
    reports = list(job.run(request, scan, prior))
    p = problem(retrospective(scan.slice(1), "random", 2.0, 12, 5), 4)
    want = reconstruct(p, prior, algorithm="proximal", options={"steps": 3}, n_samples=3, seed=5)
    made = reports[-1].made
    assert torch.allclose(made.samples, want.samples, rtol=1e-4, atol=1e-4 * p.scale)
    assert made.chi2 == pytest.approx(want.chi2, rel=1e-3) and made.metrics == pytest.approx(want.metrics, rel=1e-3)
    assert [len(m.made.samples) for m in reports if m.made is not None] == [1, 2, 3, 3]
    assert [m.finished for m in reports] == [False] * (len(reports) - 1) + [True]
    # Controls: another seed, and the other slice.
    other = reconstruct(p, prior, algorithm="proximal", options={"steps": 3}, n_samples=3, seed=6)
    assert not torch.allclose(made.samples, other.samples, rtol=1e-4, atol=1e-4 * p.scale)
    assert reports[-1].index == 1 and made.problem.scale == p.scale != problem(scan.slice(0), 4).scale


def test_closing_a_run_ends_it(scan_file, monkeypatch):
    monkeypatch.setattr(job, "INTERVAL", 0.0)
    prior, calls = tiny(), []
    denoise = prior.denoise
    monkeypatch.setattr(prior, "denoise", lambda *a, **k: (calls.append(1), denoise(*a, **k))[1])
    request = ScanRequest("prior", (0, 1), acceleration=2.0, algorithm="proximal", knobs={"steps": 3}, samples=4)
    reports, kept = job.run(request, job.read_upload(scan_file), prior), None
    for report in reports:
        kept = report.made or kept
        if kept is not None and report.preview is not None:
            reports.close()
    assert len(kept.samples) == 1 and len(calls) == 4, "one sample of three levels, and one level of the next"


def test_a_picture_is_simulated_and_everything_says_so(tmp_path):
    pytest.importorskip("gradio")
    pytest.importorskip("nibabel", reason="needs nibabel")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 400), dtype=np.uint8)).save(tmp_path / "dog.png")
    up = events.upload(values(files=[str(tmp_path / "dog.png")]))
    assert "simulated k-space" in up["about"] and "from 400x90 to 256x58" in up["about"] and "fully" in up["about"]
    seen = merged(events.reconstruct_chosen(values(session=up["session"])))
    assert "Simulated k-space" in seen["words"] and "Simulated" in seen["panel_kspace"]["label"]
    with zipfile.ZipFile(seen["archive"]["value"]) as archive:
        archive.extractall(tmp_path / "out")
    written = {p.name: contents(p) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert set(written) == {"report.png", "reconstruction.npz", "settings.json", "mean.nii.gz"}
    for name in ("report.png", "settings.json"):
        assert b"simulated k-space" in written[name] and b"not for diagnosis" in written[name]
    assert b"simulated k-space" in written["mean.nii.gz"]
    with np.load(next((tmp_path / "out").rglob("*.npz"))) as arrays:
        assert bool(arrays["simulated_kspace"]) and "not for diagnosis" in str(arrays["notice"])
    # Control: measured k-space is not called simulated.
    np.savez(tmp_path / "k.npz", kspace=job.read_upload(tmp_path / "dog.png").kspace.numpy())
    assert "imulated" not in events.upload(values(files=[str(tmp_path / "k.npz")], axes="schw"))["about"]
    up["session"].close()
    assert not up["session"].folder.exists()


def test_no_tag_of_a_patient_reaches_the_page_or_a_file(tmp_path):
    pytest.importorskip("gradio")
    pytest.importorskip("nibabel", reason="needs nibabel")
    secret = "Doe^Jacqueline"
    write_dicom(tmp_path / "scan.dcm", secret)
    assert secret.encode() in contents(tmp_path / "scan.dcm"), "the search would find it"
    up = events.upload(values(files=[str(tmp_path / "scan.dcm")]))
    assert "0.5 x 0.75 mm" in up["about"] and "simulated k-space" in up["about"]
    updates = list(events.reconstruct_chosen(values(session=up["session"])))
    said = repr([{k: v for k, v in u.items() if k != "session"} for u in [up, *updates]])
    (tmp_path / "out").mkdir()
    with zipfile.ZipFile(merged(updates)["archive"]["value"]) as archive:
        archive.extractall(tmp_path / "out")
    files = [p for p in [*(tmp_path / "out").rglob("*"), *up["session"].folder.glob("views/*")] if p.is_file()]
    assert len(files) == 5
    for part in ("Doe", "Jacqueline", "Clinic"):
        assert part not in said and not any(part.encode() in contents(p) for p in files)


def test_what_was_sampled_already_is_not_sampled_less(scan_file, tmp_path):
    pytest.importorskip("gradio")
    scan = read_scan(scan_file).undersampled("random", 2.0, 12, 0)
    np.savez(tmp_path / "half.npz", kspace=scan.kspace.numpy())
    up = events.upload(values(files=[str(tmp_path / "half.npz")]))
    assert up["acceleration"]["value"] == 1 and not up["acceleration"]["interactive"] and "R = 2.00" in up["about"]
    assert up["index"]["maximum"] == 1 and up["index"]["visible"]
    with pytest.raises(AmbientSolveError, match="undersampled already"):
        list(events.reconstruct_chosen(values(session=up["session"])))
    seen = merged(events.reconstruct_chosen(values(session=up["session"], acceleration=1.0, every=True)))
    assert seen["panel_error"]["visible"] is False and "slice 1" in seen["words"] and "Against" not in seen["words"]
    first = results.look(values(session=up["session"], index=0))
    assert "slice 0" in first["words"]
    whole = events.upload(values(files=[str(scan_file)]))
    assert whole["acceleration"]["value"] == 4 and whole["acceleration"]["interactive"]


def bart(folder: Path, kspace: np.ndarray) -> list[str]:
    data = kspace[0].transpose(1, 2, 0)[:, :, None]  # (x, y, 1, coils)
    (folder / "k.hdr").write_text("# Dimensions\n" + " ".join(map(str, data.shape)) + "\n")
    data.astype(np.complex64).ravel(order="F").tofile(folder / "k.cfl")
    return [str(folder / "k.cfl"), str(folder / "k.hdr")]


def test_every_kind_of_file_arrives_as_it_was(scan_file, tmp_path):
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    kspace = np.load(scan_file)["kspace"]
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = kspace
    np.save(tmp_path / "k.npy", kspace)
    given = {"h5": [tmp_path / "scan.h5"], "npy": [tmp_path / "k.npy"], "cfl": bart(tmp_path, kspace)}
    for name, uploads in given.items():
        scan = job.read_upload(job.keep_uploads(uploads, tmp_path / f"in-{name}"))
        assert np.allclose(scan.kspace[0], kspace[0]), name
    write_dicom(tmp_path / "a.dcm", "A")
    write_dicom(tmp_path / "b.dcm", "B")
    assert len(job.read_upload(job.keep_uploads([tmp_path / "a.dcm", tmp_path / "b.dcm"], tmp_path / "in"))) == 2


def test_a_file_of_several_arrays_is_read_again_once_one_is_named(scan_file, tmp_path):
    pytest.importorskip("gradio")
    kspace = np.load(scan_file)["kspace"]
    np.savez(tmp_path / "both.npz", first=kspace[0], second=np.concatenate([kspace, kspace]))
    given = values(files=[str(tmp_path / "both.npz")])
    with pytest.raises(AmbientSolveError, match="both.npz has no 'kspace'; it holds first, second"):
        events.upload(given)
    up = events.upload(replace(given, array="first"))
    assert "1 slice of" in up["about"] and up["files"] is None and not up["index"]["visible"]
    again = events.upload(values(session=up["session"], array="second"))
    assert "4 slices of" in again["about"] and up["session"].slices == 4
    assert events.upload(values()) == {}


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("letter.npz", b"Dear Sir", "letter.npz cannot be read"),
        ("letter.h5", b"Dear Sir", "letter.h5 cannot be read"),
        ("lonely.cfl", b"12345678", "lonely.hdr"),
        ("letter.png", b"Dear Sir", "letter.png is not a picture"),
        ("letter.txt", b"Dear Sir", "is no scan by its name"),
    ],
)
def test_a_wrong_file_is_a_sentence_that_does_not_tell_the_folder(name, data, words, tmp_path):
    pytest.importorskip("gradio")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(AmbientSolveError, match=words) as error:
        events.upload(values(files=[str(tmp_path / name)]))
    assert "/" not in str(error.value).split("cannot be read")[0] and "tmp" not in str(error.value)


def test_what_claims_too_much_is_refused_before_it_is_unpacked(scan_file, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset("kspace", (500, 8, 512, 512), "complex64", chunks=True, compression="gzip")
    assert (tmp_path / "bomb.h5").stat().st_size < 100_000
    with pytest.raises(AmbientSolveError, match="unpacks to 8.4 GB"):
        job.read_upload(tmp_path / "bomb.h5")
    monkeypatch.setattr(job, "MAX_BYTES", 1000)
    with pytest.raises(AmbientSolveError, match="unpacks to"):
        job.read_upload(scan_file)
    for uploads, words in (([], "0 files"), ([scan_file, tmp_path / "bomb.h5"], "2 files were put in")):
        with pytest.raises(AmbientSolveError, match=words):
            job.keep_uploads(uploads, tmp_path / "in")
    monkeypatch.undo()
    with pytest.raises(AmbientSolveError, match="slices 0 to 1"):
        next(job.run(ScanRequest(slices=(2,)), job.read_upload(scan_file), None))


def test_the_window_maps_the_ends_to_black_and_white():
    x = np.linspace(0, 1, 101)[None].repeat(101, 0)
    drawn = np.asarray(panels.magnitude(x, Look(window=0.4, level=0.5)))[0, ::3, 0].astype(int)
    assert drawn[30] == 0 and drawn[70] == 255 and abs(drawn[50] - 127) <= 1 and drawn[60] > drawn[40]
    plain = np.asarray(panels.magnitude(x, Look()))[0, ::3, 0]
    assert plain[30] == round(0.3 * 255), "control: the window of the start does not clip"


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("zoom", [1.0, 3.0])
def test_a_click_finds_the_pixel_that_is_drawn_there(flip, zoom):
    seen = example.seen()
    for row, column in ((100, 30), (3, 125)):
        look = Look(zoom=zoom, row=row + 7, column=column - 9, flip=flip)
        x = np.zeros(seen.size)
        x[row, column] = 1
        array = np.asarray(panels.magnitude(x, look))[..., 0]
        y, at = np.unravel_index(array.argmax(), array.shape)
        assert array.max() == 255 and panels.place("mean", at + 1, y + 1, seen, look) == (row, column)
        assert panels.place("mean", y + 1, at + 1, seen, look) != (row, column), "control: x and y exchanged"
        assert panels.place("mask", at, y, seen, look) is None


def test_errors_and_standard_deviations_have_one_scale():
    seen = example.seen()
    small = panels.ShownSlice(
        {**seen.magnitudes, "mean": seen.magnitudes["reference"] + 0.2},
        np.full(seen.size, 0.1),
        *(None,) * 0,
        phase=seen.phase,
        mask=seen.mask,
        kspace=seen.kspace,
        coils=seen.coils,
        all=seen.all,
        facts=seen.facts,
    )
    drawn = panels.draw(small, Look())
    error, std = (np.asarray(drawn[name].convert("L"))[50, 50] for name in ("error", "std"))
    assert error > 2 * std > 20, "half as large, and so half as bright"


def test_the_example_is_finished_small_and_says_what_it_is():
    assert example.SEEN.stat().st_size + example.PICTURE.stat().st_size < 150_000
    seen = example.seen()
    said = panels.words(seen, 0)
    # The menu stands at another method: what made the example is named as the menu has it.
    assert panels.METHODS[example.REQUEST.method] in said and example.REQUEST.method not in said
    assert panels.captions(seen)["mask"].endswith("calibration lines")
    assert "Simulated k-space" in said and "PSNR" in said and "R = 3.05" in said
    wrong = np.abs(seen.magnitudes["filled"] - seen.magnitudes["reference"]).mean()
    assert np.abs(seen.magnitudes["mean"] - seen.magnitudes["reference"]).mean() < 0.7 * wrong
    drawn = panels.draw(seen, Look())
    assert [name for name, image in drawn.items() if image is None] == ["sample", "std"]
    found = results.look(values())
    assert found["words"] == said
    words = results.read_pixel(values(row=64, column=64))["pixel"]
    assert "Column 64, row 64" in words and "zero-filled" in words
    with pytest.raises(AmbientSolveError, match="outside the slice"):
        results.read_pixel(values(row=128, column=3))


def test_what_is_stored_comes_back(tmp_path):
    seen = example.seen()
    panels.store(seen, tmp_path / "a" / "0.npz")
    back = panels.read_stored(tmp_path / "a" / "0.npz")
    assert back.facts == seen.facts and back.std is None and set(back.magnitudes) == set(seen.magnitudes)
    assert (back.phase == seen.phase).all() and (back.magnitudes["mean"] == seen.magnitudes["mean"]).all()


def test_a_missing_package_is_a_line_that_installs_it(monkeypatch, tmp_path):
    pytest.importorskip("gradio")
    assert choices.choose_method(ScanControls(method="cg-sense"))["lacking"]["value"] == ""
    monkeypatch.setattr(choices.importlib.util, "find_spec", lambda name, package=None: None)
    (tmp_path / "scan" / "slice-000").mkdir(parents=True)
    with zipfile.ZipFile(job.zip_slices("scan", tmp_path / "scan", None)) as archive:
        assert b"pip install 'ambient-solve[mri]'" in archive.read("no-NIfTI.txt")
    assert "pip install 'ambient-solve[mri]'" in choices.choose_method(ScanControls(method="tv"))["lacking"]["value"]
    assert choices.choose_method(ScanControls(method="cg-sense"))["lacking"]["value"] == ""


def test_priors_for_scans_are_those_of_two_channels(tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    from ambient_solve.priors import load

    for name, channels in (("a-scan", 2), ("brain-mri", 2), ("photos", 3)):
        config = NetworkConfig(channels=channels, widths=(8, 16), groups=4)
        NetworkPrior(config).save(tmp_path / name, card="# tiny\nRandom weights.\n")
    monkeypatch.setattr(load, "EMBEDDED", tmp_path)
    assert choices.priors() == ["brain-mri", "a-scan"]
    found = choices.offers(values())
    assert found["method"] == "prior" and found["prior"]["value"] == "brain-mri" and found["learned"]["visible"]
    monkeypatch.setattr(load, "EMBEDDED", tmp_path / "none")
    assert choices.priors() == [] and "method" not in choices.offers(values())
    with pytest.raises(AmbientSolveError, match="mri-train"):
        choices.chosen_prior(ScanControls(method="prior"))


def test_the_endpoint_answers_programs(server, scan_file, tmp_path):
    from gradio_client import handle_file

    client = connect(server)
    given = [[handle_file(str(scan_file))], "cg-sense", "", {"acs": 12, "coils": 4, "slices": [1]}, "random", 2.0]
    path, record = client.predict(*given, api_name="/mri")
    # As the documentation has it, by name and with what is not said left at its default.
    short = client.predict(files=given[0], method="zero-filled", api_name="/mri")[1]
    assert list(short["slices"]) == ["0", "1"] and short["slices"]["0"]["R"] == 1
    p = problem(retrospective(read_scan(scan_file).slice(1), "random", 2.0, 12, 0), 4)
    from ambient_solve.mri.reconstruction import classical

    want = classical(p, "cg-sense")
    assert list(record["slices"]) == ["1"] and record["slices"]["1"]["misfit"] == pytest.approx(want.chi2, rel=1e-4)
    assert record["slices"]["1"]["psnr"] == pytest.approx(want.metrics["psnr"], rel=1e-4)
    assert not record["simulated_kspace"] and "not for diagnosis" in record["notice"]
    with zipfile.ZipFile(path) as archive:
        record = json.loads(archive.read("slice-001/settings.json"))
        assert record["method"] == "cg-sense" and "/" not in json.dumps(record["notes"])
    described = client.view_api(return_format="dict", print_info=False)["named_endpoints"]["/mri"]
    assert "simulated" in described["description"]
    assert [p["parameter_name"] for p in described["parameters"]][:2] == ["files", "method"]
    for changes, words in (((3, {"mask": "/etc/passwd"}), "of these some"), ((1, "magic"), "magic")):
        wrong = list(given)
        wrong[changes[0]] = changes[1]
        with pytest.raises(Exception, match=words):
            client.predict(*wrong, api_name="/mri")
