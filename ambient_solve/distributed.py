"""Rank, number of processes and their common exit code, as torchrun and accelerate set them; and the device."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from ambient_solve.errors import AmbientSolveError


def worst(code: int, environment: Mapping[str, str]) -> int:
    """The largest exit code of all processes: torchrun ends the others as soon as one has failed, so that all wait.

    Args:
        code: Exit code of this process.
        environment: That of the process.

    Returns:
        The largest exit code; `code` where this process is alone.
    """
    if "TORCHELASTIC_RUN_ID" not in environment:
        return code
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(rendezvous("env://"))
    store.set(f"exit code {rank}", str(code))
    names = [f"exit code {other}" for other in range(world)]
    store.wait(names, timedelta(days=365))
    return max(int(store.get(name)) for name in names)


def processes(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """(rank, number of processes, rank on this machine) as torchrun and accelerate set them; (0, 1, 0) without."""
    texts = [environment.get(*pair) for pair in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))]
    if not all(text.isdecimal() for text in texts) or int(texts[0]) >= int(texts[1]):
        raise AmbientSolveError(
            f"RANK={texts[0]}, WORLD_SIZE={texts[1]} and LOCAL_RANK={texts[2]} are set; whole numbers with RANK below "
            "WORLD_SIZE were expected, as torchrun sets them."
        )
    return int(texts[0]), int(texts[1]), int(texts[2])


def choose_device(name: str = "auto") -> str:
    """The device of that name; "auto" is the graphics card where there is one, else the CPU.

    Raises:
        AmbientSolveError: it is neither auto, cpu nor cuda, or there is no graphics card.
    """
    import torch

    there = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda") or (name == "cuda" and not there):
        raise AmbientSolveError(f"The device {name!r} is not there. Choose auto or cpu.")
    return "cuda" if there and name != "cpu" else "cpu"


def enter(environment: Mapping[str, str]) -> tuple[int, int]:
    """(rank, number of processes) as torchrun and accelerate set them; "cuda" is then the process's own card."""
    rank, world, local = processes(environment)
    if world > 1:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(local % torch.cuda.device_count())
    return rank, world
