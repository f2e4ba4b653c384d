"""Seeds of one command, shared by processes: each seed in one that is alone, so that its numbers depend on no other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from ambient_solve.distributed import processes
from ambient_solve.errors import AmbientSolveError

LAUNCHED = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_",
    "MASTER_",
    "TORCHELASTIC_",
    "GROUP_",
    "ROLE_",
    "ACCELERATE_",
    "OMPI_",
    "PMI_",
)
"""How variables begin by which a launcher tells processes of one another."""


def run_seeds(seeds: Sequence[int], command: Sequence[str], jobs: int, do: Callable[[int], object]) -> None:
    """Run a command of the testbed for each seed: in this process, or in as many at once as there are jobs.

    Args:
        seeds: Of all processes of a launcher; this one takes its part.
        command: What follows `ambient-solve testbed`, without the seeds.
        jobs: At once; 0 is one for each core or graphics card.
        do: Does one seed in this process.

    Raises:
        AmbientSolveError: a process failed.
    """
    rank, world, local = processes(os.environ)
    own = list(seeds)[rank::world]
    if jobs < 0:
        raise AmbientSolveError(f"--jobs {jobs} was given, 0 or more was expected.")
    jobs = min(jobs or (1 if world > 1 else _devices()), len(own))
    if world == 1 and jobs <= 1:
        for seed in own:
            do(seed)
        return
    running: list[tuple[int, subprocess.Popen[bytes]]] = []
    failed: list[int] = []
    try:
        for number, seed in enumerate(own):
            if len(running) == jobs:
                failed += _first(running)
            words = [sys.executable, "-m", "ambient_solve", "testbed", *command, "--jobs", "1", "--seeds", str(seed)]
            environment = alone(os.environ, local if world > 1 else number)
            running.append((seed, subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)))
        while running:
            failed += _first(running)
    finally:
        for _, process in running:
            process.terminate()
            process.wait()
    if failed:
        raise AmbientSolveError(f"Seeds {failed} failed, as said above; the same command goes on with them.")


def _first(running: list[tuple[int, subprocess.Popen[bytes]]]) -> list[int]:
    """Wait for the first of the processes, and say its seed if it failed."""
    seed, process = running[0]
    code = process.wait()
    del running[0]
    return [seed] if code else []


def alone(environment: dict[str, str] | os._Environ[str], number: int) -> dict[str, str]:
    """The environment of a process that knows of no other: one thread, and a graphics card of its own.

    Args:
        environment: That of this process.
        number: Which card, counted round.

    Returns:
        The environment.
    """
    import torch

    own = {k: v for k, v in environment.items() if not k.startswith(LAUNCHED)}
    own |= {k: v for k, v in environment.items() if k == "ACCELERATE_USE_CPU"}
    own["OMP_NUM_THREADS"] = "1"
    if cards := torch.cuda.device_count():
        listed = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
        named = listed if len(listed) == cards and all(listed) else [str(i) for i in range(cards)]
        own["CUDA_VISIBLE_DEVICES"] = named[number % cards]
    return own


def _devices() -> int:
    import torch

    return torch.cuda.device_count() or os.cpu_count() or 1
