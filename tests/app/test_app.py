"""The app below the page: views, requests, runs, controls, the example. Nothing here opens a port."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve import NetworkConfig, NetworkPrior, Solver
from ambient_solve.algorithms import ALGORITHMS
from ambient_solve.app import painter, panels, passwords, presets, widgets, wiring
from ambient_solve.app.photographs import api, controls, example, run
from ambient_solve.app.photographs.job import damage_for_play, prepare_request
from ambient_solve.app.photographs.request import RestoreRequest
from ambient_solve.app.photographs.session import details, how_to_repeat, recipe_of, save
from ambient_solve.app.uploads import open_upload
from ambient_solve.errors import AmbientSolveError
from ambient_solve.figures import sheet
from ambient_solve.knobs import knobs
from ambient_solve.operators import inpaint
from ambient_solve.restore.recipe import read_png
from ambient_solve.restore.tasks import TASKS, make_task
from ambient_solve.solver import Request, Run
from ambient_solve.verdict.judge import concluded

HEIGHT, WIDTH = 24, 32
STEPS = {"steps": 3}


def tiny() -> NetworkPrior:
    torch.manual_seed(0)
    return NetworkPrior(NetworkConfig(widths=(8, 16), groups=4)).eval().requires_grad_(False)


@pytest.fixture
def picture(tmp_path) -> Path:
    array = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "old.png")
    return tmp_path / "old.png"


def hole(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    missing = np.zeros((height, width), bool)
    missing[4:9, 5:12] = True
    return missing


def inpainting(**changes) -> RestoreRequest:
    return RestoreRequest(
        "inpaint", **{"painted": hole(), "algorithm": "proximal", "knobs": STEPS, "samples": 3} | changes
    )


def last(problem) -> run.Result:
    return [m.result for m in run.run(problem) if m.result is not None][-1]


def test_the_map_of_standard_deviations_shows_each_pixel_where_it_is_and_a_click_finds_it():
    samples = np.full((3, 20, 30, 3), 0.5)
    samples[:, 7, 22] += np.array([-0.2, 0.0, 0.2])[:, None]
    drawn = panels.std_map(samples)
    array = np.asarray(drawn.image).astype(int).sum(-1)[: 20 * drawn.scale]
    y, x = np.unravel_index(array.argmax(), array.shape)
    assert drawn.pixel(x, y) == (7, 22)
    assert drawn.pixel(x, 20 * drawn.scale + 3) is None, "the colour bar is no pixel"
    assert drawn.top == pytest.approx(0.2)
    assert (drawn.image.width, drawn.image.height) == (30 * drawn.scale, 20 * drawn.scale + panels.BAR)
    # Control: with x and y exchanged the click would find another pixel.
    assert drawn.pixel(y, x) != (7, 22)


def test_a_large_map_of_standard_deviations_is_thinned_and_still_finds_the_pixel():
    samples = np.zeros((2, 90, 130, 1))
    samples[1, 60, 93] = 1.0
    drawn = panels.std_map(samples, longest=50)
    assert drawn.step == 3 and drawn.size == (30, 44)
    array = np.asarray(drawn.image).astype(int).sum(-1)[: 30 * drawn.scale]
    y, x = np.unravel_index(array.argmax(), array.shape)
    assert drawn.pixel(x, y) == (60, 93)


def test_the_residual_map_tells_the_signs_apart_and_leaves_out_what_was_not_measured():
    residual = np.zeros((10, 10, 3))
    residual[2, 2], residual[7, 7] = 3.0, -3.0
    drawn = panels.residual_map(residual, ~hole(10, 10))
    at = np.asarray(drawn.image)[drawn.scale // 2 :: drawn.scale, drawn.scale // 2 :: drawn.scale].astype(int)
    assert at[2, 2, 0] > at[2, 2, 2] + 50, "orange"
    assert at[7, 7, 0] == at[7, 7, 2], "not measured: grey"
    drawn = panels.residual_map(residual)
    at = np.asarray(drawn.image)[drawn.scale // 2 :: drawn.scale, drawn.scale // 2 :: drawn.scale].astype(int)
    assert at[7, 7, 2] > at[7, 7, 0] + 50, "blue"


def test_maps_get_lighter_or_darker_in_one_direction():
    # What makes them readable in grey print and with any colour vision.
    ramp = panels.coloured(np.linspace(0, 1, 64)[None], sheet.HEAT)[0] @ [0.299, 0.587, 0.114]
    assert (np.diff(ramp) > -0.5).all()
    signed = panels.coloured(np.linspace(0, 1, 65)[None], panels.SIGNED)[0] @ [0.299, 0.587, 0.114]
    assert (np.diff(signed[:33]) > -0.5).all() and (np.diff(signed[32:]) < 0.5).all()


def test_what_was_not_measured_is_drawn_as_a_board():
    x = np.random.default_rng(0).random((HEIGHT, WIDTH, 3))
    drawn = np.asarray(panels.measured(x, ~hole()))
    plain = np.asarray(panels.to_image(x))
    assert (drawn[~hole()] == plain[~hole()]).all()
    assert set(np.unique(drawn[hole()])) <= {168, 208} != set(np.unique(plain[hole()]))


def test_a_slider_pair_has_one_size():
    small, large = Image.new("RGB", (10, 8)), Image.new("RGB", (40, 32))
    assert {i.size for i in panels.slider_pair(small, large)} == {(40, 32)}
    assert panels.slider_pair(large, large)[0] is large


def test_words_say_the_numbers():
    samples = np.zeros((2, 10, 10, 3))
    samples[1, :5] = 10 / 255
    mask = np.ones((10, 10), bool)
    mask[:5, :5] = False
    words = panels.share_words(mask, samples, kept=True)
    assert "75 % of the pixels were measured" in words and "25 % were not" in words
    assert f"{10 / 2**0.5:.1f} grey values" in words
    assert "| red | 5 | 7.1 | 0 | 10 |" in panels.pixel_words(samples, 0, 0, mask)
    assert "**not** measured" in panels.pixel_words(samples, 0, 0, mask)
    assert "**not** measured" not in panels.pixel_words(samples, 9, 9, mask)
    assert "**1.50 times**" in panels.fit_words(2.25)
    ranges = {"misfit": (0.5, 1.0, 2.0), "outside": (0.0, 0.01, 0.05)}
    wrong = concluded({"misfit": 9.0, "outside": 0.23}, ranges, "denoise")
    assert "| 23.00 % | 0.00 % to 5.00 % |" in panels.fit_words(9.0, wrong)
    assert wrong.advice in panels.fit_words(9.0, wrong)
    card = panels.verdict_card(wrong)
    assert "as-wrong" in card and "The noise is probably higher than stated." in card and wrong.advice in card
    right = panels.verdict_card(concluded({"misfit": 1.0}, ranges, "denoise"))
    assert "as-right" in right and "fits the measurement" in right and "<p>" not in right
    assert "20.0 dB" in panels.truth_words(np.zeros((4, 4, 3)), np.full((4, 4, 3), 0.1))
    bar = panels.progress_bar(0.256, "<b>")
    assert 'aria-valuenow="26"' in bar and "<b>" not in bar and "&lt;b&gt;" in bar


def test_a_run_draws_the_samples_of_the_solver_and_keeps_measured_pixels(picture):
    prior, upload = tiny(), open_upload(picture)
    result = last(prepare_request(inpainting(seed=5), prior, upload))
    op = inpaint(torch.from_numpy(~hole()).float(), 0.02)
    want = Solver(prior, "proximal", steps=3).solve(upload.y, op, n_samples=3, seed=5)
    want = want.samples[0].permute(0, 2, 3, 1).numpy()
    assert (result.samples[:, hole()] == want[:, hole()]).all()
    truth = upload.y[0].permute(1, 2, 0).numpy()
    assert (result.samples[:, ~hole()] == truth[~hole()]).all()
    # Controls: another seed, and measured pixels that are not copied back.
    assert (last(prepare_request(inpainting(seed=6), prior, upload)).samples[:, hole()] != want[:, hole()]).any()
    loose = last(prepare_request(inpainting(seed=5, keep=False), prior, upload))
    assert (loose.samples == want).all() and (loose.samples[:, ~hole()] != truth[~hole()]).any()
    assert len(set(loose.chi2)) == 3 and len(result.frames) == 3
    assert (details(result)["measured pixels kept"], details(loose)["measured pixels kept"]) == (True, False)
    residual = (truth - want[0])[~hole()] / 0.02
    assert np.allclose(loose.residual[~hole()], residual, atol=1e-4)


def test_previews_are_throttled_and_finished_samples_are_not(picture, monkeypatch):
    problem = prepare_request(inpainting(), tiny(), open_upload(picture))
    monkeypatch.setattr(run, "INTERVAL", 0.0)
    every = list(run.run(problem))
    assert [m.preview is not None for m in every] == [True, True, False] * 3
    assert [m.share for m in every] == pytest.approx([i / 9 for i in range(1, 10)])
    monkeypatch.setattr(run, "INTERVAL", 1e9)
    some = list(run.run(problem))
    assert [len(m.result.samples) for m in some if m.result is not None] == [1, 2, 3]
    assert sum(m.preview is not None for m in some) <= 1


def test_closing_a_run_ends_it_and_what_is_finished_is_kept(picture, monkeypatch):
    prior, calls = tiny(), []
    denoise = prior.denoise
    monkeypatch.setattr(prior, "denoise", lambda *a, **k: (calls.append(1), denoise(*a, **k))[1])
    monkeypatch.setattr(run, "INTERVAL", 0.0)
    reports, kept = run.run(prepare_request(inpainting(), prior, open_upload(picture))), None
    for report in reports:
        kept = report.result or kept
        if kept is not None and report.preview is not None:
            reports.close()
            break
    assert len(kept.samples) == 1 and len(calls) == 4, "one sample of three levels, and one level of the next"
    assert list(reports) == []


@pytest.mark.parametrize("task", TASKS)
def test_playing_damages_the_picture_and_knows_the_truth(task, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 41, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    upload = open_upload(tmp_path / "a.png")
    options = {name: controls.start_value(task, name) for name in controls.task_knobs(task)}
    options |= {"quality": 20} if task == "jpeg" else {"width": 1.0} if task == "gaussian-blur" else {}
    options |= {"length": 5.0} if task == "motion-blur" else {}
    request = RestoreRequest(task, options, play=True, scattered=0.5, algorithm="auto", knobs={"steps": 1}, samples=1)
    problem = prepare_request(request, tiny(), upload)
    result = last(problem)
    assert problem.truth.shape == result.mean.shape
    known = upload.y[0].permute(1, 2, 0).numpy()[: problem.truth.shape[0], : problem.truth.shape[1]]
    assert (problem.truth == known).all()
    if task == "denoise":
        assert np.std(problem.before - problem.truth) == pytest.approx(options["sigma"], rel=0.05)
    if task == "inpaint":
        assert 0.4 < problem.mask.mean() < 0.6 and (problem.before[~problem.mask] == 0).all()


def test_playing_is_the_same_for_the_same_seed(picture):
    upload, damage = open_upload(picture), make_task("denoise", sigma=0.1)
    first, again, other = (damage_for_play(upload, damage, seed)[0].y for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("how", ["auto", "region", "reduced", "tiles", "whole"])
def test_a_large_picture_is_restored_at_a_working_size_and_pasted_back(how, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (530, 600, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "large.png")
    missing = np.zeros((530, 600), bool)
    missing[500:520, 20:40] = True
    request = inpainting(painted=missing, size=how, samples=1, knobs={"steps": 1})
    problem = prepare_request(request, tiny(), open_upload(tmp_path / "large.png"))
    sizes = {"reduced": (452, 512), "tiles": (530, 600), "whole": (530, 600)}
    assert tuple(problem.piece.picture.y.shape[-2:]) == sizes.get(how, (128 - 34 + 0, 128)) or how in ("auto", "region")
    x = last(problem).mean
    assert x.shape == (530, 600, 3)
    assert (x[~missing] == (array / np.float32(255))[~missing]).all() and (x[missing] != array[missing] / 255).any()
    said = " ".join(problem.notes)
    assert ("working size" in said) == (how in ("auto", "region", "reduced")) and ("tiles" in said) == (how == "tiles")


def test_paint_at_another_size_marks_the_same_place(picture):
    doubled = hole().repeat(2, 0).repeat(2, 1)
    assert (prepare_request(inpainting(painted=doubled), tiny(), open_upload(picture)).mask == ~hole()).all()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (inpainting(painted=None), "Nothing is marked as missing"),
        (inpainting(painted=np.zeros((HEIGHT, WIDTH), bool)), "Nothing is marked as missing"),
        (inpainting(painted=np.ones((HEIGHT, WIDTH), bool)), "The whole picture is marked"),
        (inpainting(samples=0), "at least 1"),
        (inpainting(size="huge"), "no working size 'huge'"),
        (inpainting(knobs={"stops": 3}), "no knob 'stops'"),
        (RestoreRequest("denoise", {"sigma": 0.1}, size="region"), "no missing region"),
        (RestoreRequest("gaussian-blur", {"width": 1.0}, size="reduced"), "no longer damaged"),
        (RestoreRequest("painting"), "no task 'painting'"),
    ],
)
def test_what_does_not_fit_is_said_before_the_network_runs(wrong, words, picture, monkeypatch):
    prior = tiny()
    monkeypatch.setattr(prior, "denoise", lambda *a, **k: pytest.fail("the network ran"))
    with pytest.raises(AmbientSolveError, match=words):
        prepare_request(wrong, prior, open_upload(picture))


def test_the_saved_picture_carries_the_recipe_and_the_zip_all_samples(picture, tmp_path):
    result = last(prepare_request(inpainting(seed=4, options={"sigma": 0.03}), tiny(), open_upload(picture)))
    best, archive = save(result, tmp_path / "out")
    recipe = read_png(best)
    assert recipe == recipe_of(result) and recipe.damage == {"sigma": 0.03, "mask": "old-mask.png"}
    names = zipfile.ZipFile(archive).namelist()
    assert {Path(n).name for n in names} >= {"sample-2.png", "old-mask.png", "settings.json", "std.png"}
    array = np.asarray(Image.open(best)) / 255
    assert np.abs(array - np.clip(result.mean, 0, 1)).max() < 0.503 / 255
    python, shell = how_to_repeat(result)
    compile(python, "snippet", "exec")
    assert "old-mask.png" in python and "--sigma 0.03" in shell and "seed=4" in python


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_knob_has_a_control_that_holds_its_default(name):
    gr = pytest.importorskip("gradio")
    for k in knobs(ALGORITHMS[name]):
        widget = widgets.knob_widget(k)
        assert widget.value == k.default and widget.info == k.help and widget.label
        kept = widgets.knob_value(k, float(k.default) if k.type in (int, float) else k.default)
        assert type(kept) is k.type and kept == k.default
        if isinstance(widget, gr.Slider):
            assert widget.minimum == k.lo and widget.maximum == k.hi


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_preset_is_one_that_the_solver_takes_for_the_task(name, task, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "old.jpg", quality=30)
    upload = open_upload(tmp_path / "old.jpg")

    def begin(algorithm: str, settings: dict) -> Run:
        # All is checked before the first network call.
        options = {"sigma": 0.1} | ({"width": 1.0} if task == "gaussian-blur" else {})
        request = RestoreRequest(task, options, painted=hole(), algorithm=algorithm, knobs=settings, samples=1)
        problem = prepare_request(request, tiny(), upload)
        return Run(problem.solver, Request(problem.piece.picture.y, problem.op, sigma_y=0.1))

    algorithm, settings = presets.PRESETS[name].chosen(task)
    begin(algorithm, settings)
    assert presets.preset_of(task, algorithm, settings, presets.PRESETS[name].samples) == name
    if task == "jpeg" and name != "Faithful":
        with pytest.raises(AmbientSolveError, match="needs a linear operator"):
            begin(presets.PRESETS[name].algorithm, dict(presets.PRESETS[name].knobs))


def test_the_endpoint_restores_a_jpeg_with_the_default_preset(prior_folder, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "old.jpg", quality=30)
    given = {"file": str(tmp_path / "old.jpg"), "task": "jpeg", "options": {}, "mask": None, "seed": 0, "samples": 1}
    *_, (path, record) = api.restored(given | {"preset": "Fast"}, prior_folder, "cpu")
    assert path is not None and record["algorithm"] == "daps"
    assert "measured pixels kept" not in record, "where none is missing, all are restored"


def test_what_is_left_is_estimated_by_the_pace_of_the_levels_to_come(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run.time, "perf_counter", lambda: now[0])
    expensive, seconds, said = [False] * 5 + [True] * 10, {False: 0.5, True: 2.5}, {}
    clock = run._Clock(2)
    clock.begin(expensive)
    for step, kind in enumerate(expensive, 1):
        now[0] += seconds[kind]
        clock.passed(step)
        said[step] = clock.report(0, 1, step, len(expensive))
    whole = 2 * sum(seconds[kind] for kind in expensive)
    assert all("left" not in said[step][1] for step in range(1, 6)), "how long a expensive level takes is not known yet"
    assert f"about {whole - 5:.0f} s left" in said[6][1] and "about 30 s left" in said[14][1]
    # Control: by the share of the levels it would have been 12 s after 5 levels of what takes another 52.
    share, elapsed = said[5][0], 2.5
    assert elapsed * (1 - share) / share < (whole - elapsed) / 4
    clock.finish(1)
    clock.begin(expensive)
    now[0] += 0.5
    clock.passed(1)
    assert "about 27 s left" in clock.report(1, 1, 1, len(expensive))[1], "from the second sample on by the first one"


def test_the_snippet_makes_what_the_page_hands_out(picture, prior_folder, tmp_path, monkeypatch):
    request = inpainting(prior=prior_folder, samples=2, options={"sigma": 0.05})
    result = last(prepare_request(request, tiny(), open_upload(picture)))
    _, archive = save(result, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    zipfile.ZipFile(archive).extractall(tmp_path / "unzipped")
    shutil.copyfile(next((tmp_path / "unzipped").rglob("old-mask.png")), tmp_path / "old-mask.png")
    python, shell = how_to_repeat(result)
    names: dict = {}
    exec(compile(python, "snippet", "exec"), names)
    assert np.allclose(names["restored"][0].permute(1, 2, 0).numpy(), result.mean, atol=1e-6)
    # Control: without the measured pixels it is another picture, as the command line's is.
    loose = names["outcome"].restoration.mean[0].permute(1, 2, 0).numpy()
    assert np.abs(loose - result.mean).max() > 1e-3 and "only the Python does" in shell


def test_what_was_painted_comes_back_as_it_was():
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    assert (painter.painted(painter.value(picture, hole())) == hole()).all()
    assert painter.painted(painter.value(picture)) is None and painter.painted(None) is None
    assert painter.painted(painter.value(picture, np.zeros_like(hole()))) is None
    for wrong in ("/etc/passwd", painter.HEAD + "!!", painter.HEAD + "AAAA", 3):
        with pytest.raises(AmbientSolveError, match="paint again"):
            painter.painted({"mask": wrong})
    big = painter.value(Image.new("RGB", (3000, 2)), np.ones((2, 3000), bool))
    assert painter.painted(big).shape == (2, 3000), "a picture of a camera is painted on at its own size"
    big = painter.value(Image.new("RGB", (6000, 4)), np.ones((4, 6000), bool))
    assert painter.painted(big).shape == (3, 4096), "a larger one at a smaller one"
    big["mask"] = painter._url(painter._layer(np.ones((2, 5000), bool), (5000, 2)))
    with pytest.raises(AmbientSolveError, match="paint again"):
        painter.painted(big)


def test_the_example_is_finished_small_and_honest():
    assert (
        sum(
            file.stat().st_size
            for file in (example.PICTURE, example.MASK, example.STEPS, example.RECORD, example.FACTS)
        )
        < 200_000
    )
    seen = example.first_view()
    assert seen["samples"].std(0)[~seen["mask"]].mean() > 0.005 and (seen["samples"].std(0)[seen["mask"]] == 0).all()
    assert panels.residual_map(seen["residual"], seen["mask"]).size == seen["mask"].shape
    assert seen["misfit"] == pytest.approx(np.mean(seen["chi2"])) and len(example.frames(seen)) == len(seen["frames"])


def test_a_password_is_read_from_a_file(tmp_path):
    (tmp_path / "word").write_text("open sesame\nsecond line\n")
    (tmp_path / "empty").write_text("\n")
    assert passwords.read_auth(f"ali:{tmp_path / 'word'}") == [("ali", "open sesame")]
    assert passwords.read_auth("") is None
    for wrong in ("ali", "ali:", f"ali:{tmp_path / 'nothing'}", f":{tmp_path / 'word'}", f"ali:{tmp_path / 'empty'}"):
        with pytest.raises(AmbientSolveError, match="expected"):
            passwords.read_auth(wrong)


def test_what_an_error_says_does_not_stay_through_the_next_run():
    gr = pytest.importorskip("gradio")

    def wrong() -> None:
        raise AmbientSolveError("Paint first.")

    def wrong_later():
        yield {}
        wrong()

    for call in (wiring.sentences(wrong), lambda: list(wiring.sentences(wrong_later)())):
        with pytest.raises(gr.Error, match="Paint first") as error:
            call()
        assert error.value.duration is not None and 5 < error.value.duration < 25
