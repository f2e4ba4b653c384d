"""The benchmark: what a row says, how rows are averaged, resumed and shared; what the command writes and refuses."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from PIL import Image
from torch import Tensor

from ambient_solve import NetworkConfig, NetworkPrior, Proximal, Solver, operators
from ambient_solve.cli.evaluate import Evaluate, read_arm, read_task
from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.benchmark import (
    Row,
    averages,
    measure,
    measure_all,
    merge,
    read_rows,
)
from ambient_solve.evaluate.calibration import coverage, variance_ratio
from ambient_solve.evaluate.metrics import Metrics
from ambient_solve.evaluate.trials import Trial, Truth, content_of, plan_trials, unfit
from ambient_solve.priors.base import Prior
from helpers import one_sentence, rand

CALLS: list[int] = []
METRICS = Metrics()


class Counted(Prior):
    """White pictures of mean 1/2; counts its calls outside of itself, for its content is what it computes."""

    shape, sigma_min, sigma_max = (3, -1, -1), 0.01, 20.0

    def __init__(self, spread: float = 0.4) -> None:
        super().__init__()
        self.register_buffer("spread", torch.tensor(spread))

    @property
    def affine(self) -> tuple[float, float]:
        return 0.5, 0.5

    def denoise(self, z: Tensor, sigma: float, cond: object = None) -> Tensor:
        CALLS.append(len(z))
        return z * self.spread**2 / (self.spread**2 + sigma**2)


def jobs_of(*arms: str, tasks: tuple[str, ...] = ("random", "super-resolution"), **more: object) -> list[Trial]:
    pictures = more.pop("pictures", [Truth(f"p{i}", rand(3, 8, 8, seed=i)) for i in range(3)])
    priors = more.pop("priors", {"white": Counted()})
    return plan_trials(
        priors, [read_arm(a) for a in arms], [read_task(t) for t in tasks], pictures, **{"samples": 3, **more}
    )


def run(jobs: list[Trial], out: Path, **more: object) -> list[Row]:
    return list(measure_all(jobs, out, METRICS, **more))


def without_time(rows: list[Row]) -> list[Row]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


FAST = ("proximal steps=3", "adjoint")


def test_a_row_is_what_the_solver_gives():
    (job,) = jobs_of("proximal steps=3 lambda=2", tasks=("random missing=0.5",), pictures=[Truth("a", rand(3, 8, 8))])
    row, _ = measure(job, METRICS)
    op = operators.inpaint_random((3, 8, 8), missing=0.5)
    solver = Solver(Counted(), Proximal(steps=3, lambda_=2.0))
    found = solver.solve(job.measurement(), op, n_samples=3, seed=int(job.measured[8:16], 16))
    assert row["mean"] == METRICS(found.mean[0], job.picture.x)
    assert row["sample"] == METRICS(found.samples[0, 0], job.picture.x)
    assert row["mean"]["psnr"] != row["sample"]["psnr"]  # control
    assert row["chi2"] == pytest.approx(float(found.chi2.mean()))
    assert (row["network_calls"], row["vjps"], row["samples"], row["coverage"]) == (3, 0, 3, None)
    assert row["settings"]["arm"]["lambda_"] == 2.0 and row["settings"]["task"]["missing"] == 0.5
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_samples_drawn_in_parts_are_the_same():
    for arm, together in (("proximal steps=3", False), ("tds steps=3", True)):
        (job, *_) = jobs_of(arm, tasks=("super-resolution",))
        CALLS.clear()
        parts = measure(job, METRICS, at_once=1)[0]
        assert max(CALLS) == (3 if together else 1)  # tds draws all samples of a picture together
        assert parts["mean"] == pytest.approx(measure(job, METRICS)[0]["mean"], rel=1e-5)


def test_a_measurement_belongs_to_its_picture_task_and_seed():
    """Not to the arm or the prior, which are compared on it."""
    jobs = jobs_of("proximal steps=3", "adjoint", tasks=("denoise", "denoise sigma=0.2"))
    y = {(job.arm.label, job.task.label, job.picture.name): job.measurement() for job in jobs}
    assert torch.equal(y["adjoint", "denoise", "p0"], y["proximal steps=3", "denoise", "p0"])
    noise = [
        y["adjoint", t, p] - rand(3, 8, 8, seed=int(p[1]))
        for t, p in (("denoise", "p0"), ("denoise", "p1"), ("denoise sigma=0.2", "p0"))
    ]
    for sigma, e in zip((0.1, 0.1, 0.2), noise, strict=True):
        assert abs(float(e.std()) / sigma - 1) < 0.2
    for other in noise[1:]:
        assert abs(float(torch.corrcoef(torch.stack([noise[0].flatten(), other.flatten()]))[0, 1])) < 0.3
    (again, *_) = jobs_of("adjoint", tasks=("denoise",), seed=1)
    assert not torch.equal(again.measurement(), y["adjoint", "denoise", "p0"])


def test_spread_over_error_is_that_of_all_pictures_together():
    """Pictures that the prior fits well and badly: the mean of their ratios is another number."""
    pictures = [Truth(f"p{i}", 0.5 + s * (rand(3, 8, 8, seed=i) - 0.5)) for i, s in enumerate((0.05, 0.4, 1.0))]
    jobs = jobs_of("proximal steps=4", tasks=("random",), pictures=pictures, samples=19)
    found = [measure(job, METRICS) for job in jobs]
    samples, truth = torch.cat([r.samples for _, r in found]), torch.stack([p.x for p in pictures])
    (line,) = averages(jobs, [row for row, _ in found])
    assert line["V/B"] == pytest.approx(variance_ratio(samples, truth), rel=1e-9)
    assert line["coverage"] == pytest.approx(coverage(samples, truth, 0.9), abs=1e-12)
    ratios = [row["V"] / row["B"] for row, _ in found]
    assert abs(np.mean(ratios) / line["V/B"] - 1) > 0.1  # control
    assert "coverage" not in averages(jobs[:1], [found[0][0] | {"samples": 18}])[0]


def test_a_large_picture_counts_for_its_pixels():
    pictures = [Truth("small", rand(3, 8, 8)), Truth("large", 0.48 + 0.04 * rand(3, 32, 8))]
    jobs = jobs_of("proximal steps=4", tasks=("random",), pictures=pictures)
    found = [measure(job, METRICS) for job in jobs]
    samples = torch.cat([r.samples.reshape(1, 3, -1) for _, r in found], 2)
    truth = torch.cat([p.x.flatten() for p in pictures])[None]
    (line,) = averages(jobs, [row for row, _ in found])
    assert line["V/B"] == pytest.approx(variance_ratio(samples, truth), rel=1e-9)
    V, B = (sum(row[k] for row, _ in found) for k in "VB")
    assert abs(V / B / line["V/B"] - 1) > 0.1  # control: each picture alike


def test_averages_by_hand():
    jobs = jobs_of("adjoint", tasks=("denoise",))
    rows = [measure(job, METRICS)[0] for job in jobs]
    for row, value, seconds in zip(rows, (20.0, 23.0, 29.0), (1.0, 9.0, 2.0), strict=True):
        row |= {"mean": {"psnr": value, "ssim": 0.5}, "seconds": seconds}
    (line,) = averages(jobs, rows)
    assert line["psnr_mean"] == 24.0 and line["seconds"] == 2.0 and line["pictures"] == 3
    assert line["psnr_mean_se"] == pytest.approx(math.sqrt(21 / 3))  # variance (16 + 1 + 25) / 2 of one picture
    assert line["psnr_mean_se"] != pytest.approx(math.sqrt(21))  # control: the deviation, not the error of the mean
    assert not {"psnr_sample", "V/B", "coverage", "lpips_mean"} & line.keys()
    rows[1]["mean"] = {"psnr": None, "ssim": 0.5}  # a picture that gave no number does not vanish from the mean
    assert math.isnan(averages(jobs, rows)[0]["psnr_mean"])


def test_nothing_is_measured_twice(tmp_path):
    jobs = jobs_of(*FAST)
    CALLS.clear()
    whole = run(jobs, tmp_path / "whole")
    assert len(whole) == 12 and len(CALLS) == 6 * 3  # the adjoint asks no network
    assert run(jobs, tmp_path / "whole") == [] and len(CALLS) == 18

    cut = measure_all(jobs, tmp_path / "cut", METRICS)
    begun = [next(cut) for _ in range(4)]
    cut.close()
    path = tmp_path / "cut" / "rows.jsonl"
    path.write_text(path.read_text() + json.dumps(whole[4])[:200])  # interrupted while it wrote
    CALLS.clear()
    rest = run(jobs, tmp_path / "cut")
    assert len(rest) == 8 and len(CALLS) == 3 * sum(bool(row["prior"]) for row in rest)
    assert without_time(begun + rest) == without_time(whole)
    assert without_time(merge(jobs, tmp_path / "cut", METRICS)) == without_time(whole)
    assert len(path.read_text().splitlines()) == 12


def test_a_broken_row_inside_a_file_is_not_passed_over(tmp_path):
    jobs = jobs_of("adjoint")
    run(jobs, tmp_path)
    path = tmp_path / "rows.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1][:50] + "\n", *lines[2:]]))
    with pytest.raises(AmbientSolveError, match="Line 2 of .*rows.jsonl is no row") as error:
        run(jobs, tmp_path)
    assert one_sentence(error)


def test_a_row_is_known_by_its_content(tmp_path):
    run(jobs_of(*FAST), tmp_path)
    again = jobs_of("proximal lambda=1 steps=3", "adjoint", priors={"by another name": Counted()})
    assert run(again, tmp_path) == []
    assert {line["prior"] for line in averages(again, merge(again, tmp_path, METRICS))} == {"by another name", ""}
    for n, changed in (
        (6, jobs_of("proximal steps=4")),
        (6, jobs_of("proximal steps=3", seed=1)),
        (6, jobs_of("proximal steps=3", samples=2)),
        (6, jobs_of("proximal steps=3", priors={"white": Counted(0.5)})),
        (3, jobs_of("proximal steps=3", tasks=("random sigma=0.03",))),
        (1, jobs_of("adjoint", tasks=("random",), pictures=[Truth("p0", rand(3, 8, 8, seed=9))])),
        (0, jobs_of("adjoint", samples=5)),  # one picture, however many samples of others
    ):
        assert len(run(changed, tmp_path)) == n
    assert len(read_rows(tmp_path)) == 12 + 6 * 4 + 3 + 1


def test_two_priors_share_what_needs_none(tmp_path):
    jobs = jobs_of(*FAST, tasks=("random",), priors={"a": Counted(), "b": Counted(0.5), "a again": Counted()})
    rows = run(jobs, tmp_path)
    assert [row["prior"] for row in rows].count("") == 3 and len(rows) == 9
    lines = averages(jobs, merge(jobs, tmp_path, METRICS))
    by_prior = {line["prior"]: line["psnr_mean"] for line in lines}
    assert by_prior.keys() == {"a", "b", "a again", ""}
    assert by_prior["a"] == by_prior["a again"] != by_prior["b"]


def test_a_metric_asked_for_later_is_measured_later(tmp_path):
    class More(Metrics):
        names = ()

        def __init__(self) -> None:
            super().__init__()
            self.names = ("psnr", "ssim", "lpips")

        def __call__(self, x: Tensor, truth: Tensor) -> dict[str, float]:
            return super().__call__(x, truth) | {"lpips": 0.25}

    jobs = jobs_of("adjoint", tasks=("random",))
    assert len(run(jobs, tmp_path)) == 3 and merge(jobs, tmp_path, More()) is None
    assert len(list(measure_all(jobs, tmp_path, More()))) == 3 and run(jobs, tmp_path) == []
    assert averages(jobs, merge(jobs, tmp_path, METRICS))[0]["lpips_mean"] == 0.25


def test_processes_share_the_work_and_find_the_same(tmp_path):
    """One after the other, side by side, or after one of them was lost: the rows of a single process."""
    jobs = jobs_of(*FAST)
    alone = without_time(run(jobs, tmp_path / "alone"))
    shares = [run(jobs, tmp_path / "two", rank=rank, world=2) for rank in (0, 1)]
    assert [len(share) for share in shares] == [6, 6]
    assert not {row["key"] for row in shares[0]} & {row["key"] for row in shares[1]}
    assert without_time(merge(jobs, tmp_path / "two", METRICS)) == alone
    assert [p.name for p in (tmp_path / "two").iterdir()] == ["rows.jsonl"]

    both = [measure_all(jobs, tmp_path / "both", METRICS, rank=rank, world=3) for rank in range(3)]
    for part in (0, 1, 0, 1, 2, 0):
        next(both[part])
    assert merge(jobs, tmp_path / "both", METRICS) is None
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == [f"rows-{r}.jsonl" for r in range(3)]
    for part in (0, 2):  # process 1 is lost in the middle of a line
        list(both[part])
    with (tmp_path / "both" / "rows-1.jsonl").open("a") as file:
        file.write('{"key": ')
    assert merge(jobs, tmp_path / "both", METRICS) is None
    assert len(run(jobs, tmp_path / "both")) == 2
    assert without_time(merge(jobs, tmp_path / "both", METRICS)) == alone


def test_what_does_not_fit_is_known_before_any_network_call():
    CALLS.clear()
    jobs = jobs_of("proximal", "daps", "tv", loud := "pnpdm rho_max=90", tasks=("jpeg", "random"))
    reasons = unfit(jobs)
    left_out = {f"{job.arm.label}, {job.task.label}": reasons[job.key] for job in jobs if job.key in reasons}
    assert set(left_out) == {"proximal, jpeg", "tv, jpeg", f"{loud}, jpeg", f"{loud}, random"} and len(reasons) == 12
    assert "linear operator" in left_out["tv, jpeg"] and CALLS == []


def test_the_content_of_a_prior_is_what_it_computes():
    assert content_of(Counted()) == content_of(Counted()) != content_of(Counted(0.5))
    torch.manual_seed(0)
    a = NetworkPrior(NetworkConfig(widths=(8, 16), groups=4)).eval()
    before = content_of(a)
    a.denoise(torch.zeros(1, 3, 8, 8), 1.0)
    assert content_of(a) == before
    with torch.no_grad():
        next(a.parameters()).flatten()[0] += 1e-3
    assert content_of(a) != before


def test_texts_become_arms_and_tasks():
    assert read_arm("proximal lambda=2 draw=true").method == Proximal(lambda_=2.0, draw=True)
    assert read_arm("tv weight=0.1").settings == {"name": "tv", "weight": 0.1, "iterations": 500}
    assert read_arm("tv").settings["weight"] is None
    task = read_task("box box=4 sigma=0.1")
    assert task.build((3, 8, 8)).mask.sum() == 3 * (64 - 16) and task.settings["sigma"] == 0.1


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Two pictures, a prior and a mask in the current folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    NetworkPrior(NetworkConfig(widths=(8, 16), groups=4)).save(tmp_path / "pri<or")
    Path("in").mkdir()
    for i, name in enumerate(("a.png", "b & <c>.png")):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(Path("in", name))
    Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save("mask.png")
    return tmp_path


def command(*words: str) -> int:
    defaults = {"--priors": "pri<or", "--crop": "16", "--samples": "2", "--device": "cpu"}
    more = [w for flag, value in defaults.items() if flag not in words for w in (flag, value)]
    return tyro.cli(Evaluate, args=["in", *words, *more], config=(tyro.conf.FlagCreatePairsOff,)).run()


ARMS = ("--algorithms", "proximal steps=2", "pseudo-inverse", "--tasks", "random missing=0.5", "inpaint mask=mask.png")


def test_the_command_writes_tables_and_pictures(place, capsys):
    assert command(*ARMS, "jpeg", "--out", "o") == 0
    out, err = capsys.readouterr()
    assert "8 rows, 8 of them measured now" in out and "| random missing=0.5 | pseudo-inverse |  | 1 |" in out
    assert "Left out: proximal steps=2 with pri<or on jpeg: proximal needs a linear operator" in err
    lines = list(csv.DictReader((place / "o" / "table.csv").read_text().splitlines()))
    assert [line["algorithm"] for line in lines] == ["proximal steps=2", "pseudo-inverse"] * 2
    rows = list(read_rows("o").values())
    mine = [r["mean"]["psnr"] for r in rows if r["task"] == lines[0]["task"] and r["prior"] == "pri<or"]
    assert float(lines[0]["psnr_mean"]) == pytest.approx(sum(mine) / 2) and lines[1]["psnr_sample"] == ""
    page = (place / "o" / "table.html").read_text()
    pictures = re.findall(r'src="([^"]*)"', page)
    assert len(pictures) == 4 * (2 + 3 + 1) and all((place / "o" / p).is_file() for p in pictures)
    assert "http" not in page and "b &amp; &lt;c&gt;.png" in page and not re.search("<c>|pri<or", page)
    assert len({line.count("|") for line in (place / "o" / "table.md").read_text().splitlines() if "|" in line}) == 1
    truth = next(p for p in pictures if "truth" in p)
    shown = torch.from_numpy(np.array(Image.open(place / "o" / truth))).permute(2, 0, 1)
    assert torch.equal(shown, torch.from_numpy(np.array(Image.open("in/a.png"))[2:18, 4:20]).permute(2, 0, 1))

    assert command(*ARMS, "jpeg", "--out", "o") == 0 and "0 of them measured now" in capsys.readouterr().out
    assert command(*ARMS, "--limit", "1", "--pictures", "0", "--out", "p") == 0
    assert "4 rows, 4 of them" in capsys.readouterr().out and not Path("p", "pictures").exists()


def test_the_command_under_torchrun(place, capsys, monkeypatch):
    """Two processes without a group: the first leaves the table to the last; the rows are those of one alone."""
    assert command(*ARMS, "--out", "alone") == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        capsys.readouterr()
        assert command(*ARMS, "--out", "two") == 0
        said = capsys.readouterr().out
        assert ("table.html" in said) == (rank == "0") == (place / "two" / "table.html").is_file()
    alone, two = (list(read_rows(out).values()) for out in ("alone", "two"))
    assert without_time(alone) == without_time(two)
    same = [(place / out / "table.html").read_text() for out in ("alone", "two")]
    assert re.findall("<img[^>]*>", same[0]) == re.findall("<img[^>]*>", same[1])


REFUSED = {
    "unknown algorithm": (("--algorithms", "mmsp"), "Did you mean 'mmps'"),
    "unknown baseline": (("--algorithms", "wavelets"), "Did you mean 'wavelet'"),
    "unknown knob": (("--algorithms", "mmps stepz=3"), "Did you mean 'steps'"),
    "knob no number": (("--algorithms", "mmps steps=x"), "a whole number was expected"),
    "knob without a value": (("--algorithms", "mmps steps"), "a name and its settings"),
    "knob out of range": (("--algorithms", "proximal zeta=2"), "outside [0.0, 1.0]"),
    "weight no number": (("--algorithms", "tv weight=x"), "a number was expected"),
    "empty name": (("--algorithms", ""), "a name and its settings"),
    "unknown task": (("--tasks", "rendom"), "Did you mean 'random'"),
    "unknown option": (("--tasks", "random mising=1"), "Did you mean 'missing'"),
    "option out of range": (("--tasks", "random missing=2"), "between 0 and 1"),
    "no mask": (("--tasks", "inpaint"), "inpaint mask=FILE"),
    "mask of another size": (("--tasks", "inpaint mask=mask.png", "--crop", "20"), "The mask is 16x16"),
    "nothing fits": (("--algorithms", "tv", "--tasks", "jpeg"), "Nothing is left to measure: tv on jpeg"),
    "crop too small": (("--crop", "4"), "at least 7"),
    "crop too large": (("--crop", "30"), "a.png is 24x20, smaller than 30x30"),
    "no samples": (("--samples", "0"), "at least 1"),
    "limit": (("--limit", "-1"), "at least 0"),
    "no prior": (("--priors", "nothing"), "There is no prior"),
    "no features": (("--lpips", "gone.safetensors"), "does not hold the convolutions"),
    "out is a file": (("--out", "mask.png"), "is a file"),
    "device": (("--device", "tpu"), "not there"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_a_sentence(case, place):
    words, expected = REFUSED[case]
    with pytest.raises(AmbientSolveError) as error:
        command(*(() if "--algorithms" in words else ("--algorithms", "tv")), *words)
    assert expected in str(error.value) and one_sentence(error), str(error.value)
    assert not Path("evaluation").exists()
