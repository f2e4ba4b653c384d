"""How near the hardware is: the network, samples together, memory, processes, seconds until something happens.

    python benchmarks/hardware.py network                   (ours beside the same network as deepinv runs one)
    python benchmarks/hardware.py samples                   (16 samples beside one)
    python benchmarks/hardware.py memory                    (peak of solving, beside deepinv and azula)
    python benchmarks/hardware.py processes                 (two beside one, on two free cores)
    python benchmarks/hardware.py training --data DATA      (two processes beside one, on two free cores)
    python benchmarks/hardware.py precision                 (a step of training in bfloat16 and float32)
    python benchmarks/hardware.py start                     (import, --help, demo)
    python benchmarks/hardware.py profile                   (what a step spends its time on)

The network is the embedded prior. What is compared takes turns, round after round; numbers are the least, the median
and the largest of the rounds. Seconds of one process are its CPU seconds, those of several are wall time. Set
OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from ambient_solve import Solver, load_prior, operators
from ambient_solve.cli.demo import damages, photograph
from ambient_solve.priors.base import Prior
from ambient_solve.priors.network import NetworkConfig, NetworkPrior

ROOT = Path(__file__).parents[1]
SIDES, TOGETHER, WORLD = (64, 128, 256), 16, 2
SOLVING = {"proximal": "deepinv DiffPIR", "dps": "deepinv DPS", "mmps": "azula MMPS, 3 iterations"}
"""Ours, and the peer that does the same."""
LIMITS = {"import": 3.0, "--help": 1.5, "demo": 60.0}
"""Seconds."""


def three(values: Iterable[float]) -> str:
    """Least, median, largest."""
    found = sorted(values)
    return f"{found[0]:.3g}, {statistics.median(found):.3g}, {found[-1]:.3g}"


def turns(functions: Sequence[Callable[[], object]], rounds: int, clock: Callable[[], float]) -> list[list[float]]:
    """Seconds of each function in each round, after one call that is not measured."""
    seconds: list[list[float]] = [[] for _ in functions]
    for number in range(rounds + 1):
        for function, found in zip(functions, seconds, strict=True):
            started = clock()
            function()
            found += [clock() - started] if number else []
    return seconds


def as_deepinv_runs_it(prior: NetworkPrior) -> NetworkPrior:
    """float32, contiguous, eager: what deepinv does with a DRUNet."""
    return prior.set_precision("float32")


def passes(prior: Prior, z: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    """A forward pass, and one with its backward pass."""

    def forward() -> None:
        with torch.no_grad():
            prior.denoise(z, 1.0)

    return forward, lambda: prior.denoise_vjp(z, 1.0, once=True)[1](z)


def psnr(found: Tensor, truth: Tensor) -> float:
    return -10 * float((found - truth).square().mean().log10())


def network(rounds: int, sides: Sequence[int] = SIDES, steps: int = 25) -> list[str]:
    """Forward and backward passes, and what the arithmetic does to a restoration."""
    ours, theirs = load_prior("photos"), as_deepinv_runs_it(load_prior("photos"))
    lines = ["| pictures | pass | ours, ms | as deepinv runs it, ms | ratio |", "|---|---|---|---|---|"]
    for batch, side in [*((1, side) for side in sides), (8, sides[0])]:
        z = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
        for name, mine, other in zip(("F", "F + B"), passes(ours, z), passes(theirs, z), strict=True):
            fast, slow = turns([mine, other], rounds, time.process_time)
            ratio = three(b / a for a, b in zip(fast, slow, strict=True))
            cells = [three(1000 * s for s in found) for found in (fast, slow)]
            lines.append(f"| {batch} x {side} px | {name} | {cells[0]} | {cells[1]} | {ratio} |")
    lines += ["", "| photograph of the demo, mean of 4 | ours, dB | float32, dB | difference |", "|---|---|---|---|"]
    truth = photograph()
    for name, op in damages():
        torch.manual_seed(0)
        y = op(truth[None])
        scores = [psnr(Solver(p, steps=steps).solve(y, op, n_samples=4).mean[0], truth) for p in (ours, theirs)]
        lines.append(f"| {name} | {scores[0]:.2f} | {scores[1]:.2f} | {scores[0] - scores[1]:+.3f} |")
    return lines


def samples(rounds: int, sides: Sequence[int] = SIDES[:2], steps: int = 5) -> list[str]:
    """Many samples of one measurement beside one."""
    prior = load_prior("photos")
    lines = [f"| side | algorithm | 1 sample, s | {TOGETHER} samples, s | ratio |", "|---|---|---|---|---|"]
    for side in sides:
        op = operators.inpaint_random((3, side, side), missing=0.7, sigma=0.05)
        y = op(photograph(side)[None])
        for name in ("proximal", "mmps"):
            solver = Solver(prior, name, steps=steps)
            calls = [lambda n=n, s=solver, y=y, op=op: s.solve(y, op, n_samples=n) for n in (1, TOGETHER)]
            one, many = turns(calls, rounds, time.process_time)
            ratio = three(b / a for a, b in zip(one, many, strict=True))
            lines.append(f"| {side} | {name} | {three(one)} | {three(many)} | {ratio} |")
    return lines


def solve_once(method: str, side: int, levels: int) -> None:
    """One picture, in a process of its own."""
    from adapters import PEERS

    op = operators.gaussian_blur((3, side, side), width=1.5, sigma=0.05)
    torch.manual_seed(0)
    y = op(photograph(side)[None])
    if method in PEERS:
        PEERS[method].prepare(y, op, load_prior("photos"), 1, 0, levels=levels)()
    elif method != "nothing":
        Solver(load_prior("photos"), method, steps=levels).solve(y, op, n_samples=1)


def peak(command: Sequence[str]) -> float:
    """MiB at the peak of a process or of one that it started.

    `ru_maxrss` does not tell: it begins with what the process that starts another holds.
    """
    process, highest = subprocess.Popen(command, stdout=subprocess.DEVNULL), 0
    while process.poll() is None:
        highest = max(highest, *map(high_water, family(process.pid)), 0)
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed.")
    return highest / 1024


def family(pid: int) -> list[int]:
    """A process, and all that it and its own have started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in family(int(child)))]


def high_water(pid: int) -> int:
    """KiB; 0 for a process that is gone, or has not begun with its own program."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def memory(rounds: int, side: int = 256, levels: int = 3) -> list[str]:
    """Peak memory of solving with one prior object, in the arithmetic that it chooses; each in a process of its own."""
    methods = ["nothing", *SOLVING, *SOLVING.values()]
    found: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(rounds):
        for method in methods:
            words = ["one", "--method", method, "--side", str(side), "--levels", str(levels)]
            found[method].append(peak([sys.executable, __file__, *words]))
    floor = statistics.median(found["nothing"])
    lines = [f"A process that only imports: {floor:.0f} MiB. {side}x{side} pixels, {levels} levels.", ""]
    lines += ["| ours | peak, MiB | the peer | peak, MiB | ratio | without the imports |", "|---|---|---|---|---|---|"]
    for mine, other in SOLVING.items():
        a, b = statistics.median(found[mine]), statistics.median(found[other])
        cells = [
            mine,
            three(found[mine]),
            other,
            three(found[other]),
            f"{a / b:.2f}",
            f"{(a - floor) / (b - floor):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def processes(rounds: int, pictures: int = 8, side: int = 128, steps: int = 25) -> list[str]:
    """Wall time of restoring a folder by one process and by two, one thread each, start included, and alike or not."""
    ones: list[float] = []
    twos: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "in").mkdir()
        for i in range(pictures):
            x = (photograph(side).roll(7 * i, 2).permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
            noisy = x + np.random.default_rng(i).normal(0, 25, x.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / "in" / f"{i}.png")
        words = ["-m", "ambient_solve", "restore", str(place / "in"), "--task", "denoise", "--sigma", "0.1"]
        words += ["--samples", "4", "--steps", str(steps), "--device", "cpu", "--out"]
        for number in range(rounds):
            for world, found in ((1, ones), (WORLD, twos)):
                out = str(place / f"{world}-{number}")
                started = time.perf_counter()
                running = []
                for rank in range(world):
                    variables = {"RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
                    command = [sys.executable, *words, out]
                    running.append(
                        subprocess.Popen(command, env={**os.environ, **variables}, stdout=subprocess.DEVNULL)
                    )
                if any([process.wait() for process in running]):
                    raise SystemExit("A process failed.")
                found.append(time.perf_counter() - started)
        names = [f"{i}/samples.safetensors" for i in range(pictures)]
        same = all((place / "1-0" / n).read_bytes() == (place / f"{WORLD}-0" / n).read_bytes() for n in names)
    ratio = three(a / b for a, b in zip(ones, twos, strict=True))
    return [
        f"| pictures | one process, s | {WORLD} processes, s | ratio | samples |",
        "|---|---|---|---|---|",
        f"| {pictures} x {side} px | {three(ones)} | {three(twos)} | {ratio} | {'the same' if same else 'OTHERS'} |",
    ]


def seconds_of(run: Path) -> float:
    """How long the loop of a finished training ran, as its last checkpoint says."""
    states = [json.loads(path.read_text()) for path in run.glob("checkpoint-*/state.json")]
    return max(states, key=lambda state: state["step"])["seconds"]


def training(rounds: int, data: Path, images: int = 3_840) -> list[str]:
    """Images a second of training, one thread each, for the loop without its start: by one process, by two, and by two
    that train apart, each with half of every batch, which is the most that two could reach together.
    """
    script, settings = ROOT / "trainers" / "train.py", ROOT / "trainers" / "configs" / "faces32.yaml"
    words = ["--config", str(settings), "--data-root", str(data), "--tracker", "none"]
    words += ["--validate-every", "0", "--compile", "never", "--no-duplicates"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}

    def rate(folder: Path, batch: int, world: int, runs: int) -> float:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
        started = []
        for number in range(runs):
            sizes = ["--batch", str(batch // runs), "--images", str(images // runs), "--out", str(folder / str(number))]
            command = [sys.executable, *launcher, str(script), *words, *sizes]
            started.append(subprocess.Popen(command, env={**os.environ, **own}, **quiet))
        if any(process.wait() for process in started):
            raise RuntimeError(f"A training of {world} processes failed: run {' '.join(command)}")
        seconds = [seconds_of(folder / str(number)) for number in range(runs)]
        return sum(images / runs / s for s in seconds)

    ways = {"one process": (1, 1), f"{WORLD} processes": (WORLD, 1), f"{WORLD} apart": (1, WORLD)}
    lines = [f"| batch | {', images/s | '.join(ways)}, images/s | together over one | apart over one |"]
    lines.append("|" + "---|" * 6)
    with tempfile.TemporaryDirectory() as folder:
        for batch in (32, 128):
            found: dict[str, list[float]] = {name: [] for name in ways}
            for number in range(rounds):
                for name, way in ways.items():
                    found[name].append(rate(Path(folder, f"{batch}-{name}-{number}"), batch, *way))
            one, together, apart = found.values()
            ratios = (three(b / a for a, b in zip(one, many, strict=True)) for many in (together, apart))
            lines.append(f"| {' | '.join([str(batch), *map(three, (one, together, apart)), *ratios])} |")
    return lines


def precision(rounds: int, batch: int = 8, side: int = 64) -> list[str]:
    """Images a second of a training step of the network of photos.yaml, as a training computes it."""
    from ambient_solve.training.weights import about_arithmetic, arithmetic

    settings = yaml.safe_load((ROOT / "trainers" / "configs" / "photos.yaml").read_text())["network"]
    cpu, z = torch.device("cpu"), torch.randn(batch, 3, side, side)

    def step(asked: str) -> Callable[[], None]:
        prior = NetworkPrior(NetworkConfig(**settings), arithmetic(asked, cpu))
        prior.match_layout(cpu)
        optimizer = torch.optim.AdamW(prior.train().parameters(), lr=1e-4, fused=True)

        def one() -> None:
            (prior(z, 0.5) - z).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return one

    asked = ("auto", "bf16", "fp32")
    times = turns([step(a) for a in asked], rounds, time.perf_counter)
    lines = [about_arithmetic("auto", cpu), "", "| precision | computed in | images/s |", "|---|---|---|"]
    return lines + [
        f"| {a} | {arithmetic(a, cpu)} | {three(batch / t for t in found)} |"
        for a, found in zip(asked, times, strict=True)
    ]


def start(rounds: int) -> list[str]:
    """Seconds of a fresh process: of wall time, which other work on the machine makes longer, and of its CPU."""
    use = "import ambient_solve as a; a.Solver, a.load_prior, a.operators, a.MixturePrior"
    cli = [sys.executable, "-m", "ambient_solve"]
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "import": [sys.executable, "-c", "import ambient_solve"],
            "import, and everything it names": [sys.executable, "-c", use],
            "--help": [*cli, "--help"],
            "restore --help": [*cli, "restore", "--help"],
            "demo": [*cli, "demo", "--out", folder],
        }
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        calls = [lambda c=command: subprocess.run(c, **quiet) for command in commands.values()]
        wall = turns(calls, rounds, time.perf_counter)
        cpu = turns(calls, rounds, lambda: sum(os.times()[2:4]))
    lines = ["| | seconds | of its CPU | at most |", "|---|---|---|---|"]
    return lines + [
        f"| {name} | {three(a)} | {three(b)} | {LIMITS.get(name, '')} |"
        for name, a, b in zip(commands, wall, cpu, strict=True)
    ]


def profile(side: int, steps: int = 3, rows: int = 12) -> list[str]:
    """The operations of a run of proximal and of mmps, by their own time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    prior, lines = load_prior("photos"), []
    op = operators.gaussian_blur((3, side, side), width=1.5, sigma=0.05)
    y = op(photograph(side)[None])
    for name in ("proximal", "mmps"):
        solver = Solver(prior, name, steps=steps)
        solver.solve(y, op, n_samples=1)
        with record(activities=[ProfilerActivity.CPU]) as made:
            solver.solve(y, op, n_samples=1)
        found = sorted(made.key_averages(), key=lambda e: -e.self_cpu_time_total)
        total = sum(e.self_cpu_time_total for e in found)
        lines += ["", f"{name}, {steps} levels, {side}x{side}:", "", "| operation | share | calls |", "|---|---|---|"]
        lines += [f"| {e.key} | {e.self_cpu_time_total / total:.1%} | {e.count} |" for e in found[:rows]]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = ["network", "samples", "memory", "processes", "training", "precision", "start", "profile", "one"]
    parser.add_argument("what", choices=choices, metavar="|".join(choices[:-1]))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=8, help="of processes")
    parser.add_argument("--side", type=int, default=0, help="of the pictures of memory, processes and profile")
    parser.add_argument("--data", type=Path, help="folder with faces/utkface64.npz, for training")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--levels", type=int, default=3, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.what == "one":
        return solve_once(args.method, args.side, args.levels)
    if args.what == "training" and args.data is None:
        raise SystemExit("training needs --data, a folder with faces/utkface64.npz.")
    run = {
        "network": lambda: network(args.rounds),
        "samples": lambda: samples(args.rounds),
        "memory": lambda: memory(args.rounds, args.side or 256),
        "processes": lambda: processes(args.rounds, args.pictures, args.side or 128),
        "training": lambda: training(args.rounds, args.data),
        "precision": lambda: precision(args.rounds),
        "start": lambda: start(args.rounds),
        "profile": lambda: profile(args.side or 256),
    }
    print(f"{torch.get_num_threads()} thread(s) of {os.cpu_count()} CPUs, torch {torch.__version__}\n")
    print("\n".join(run[args.what]()))


if __name__ == "__main__":
    main()
