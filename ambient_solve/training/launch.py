"""How many processes were asked for, and how many run."""

from __future__ import annotations

from collections.abc import Mapping

RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
"""What a launcher that starts several processes gives to each."""


def missing_processes(environment: Mapping[str, str], processes: int) -> str:
    """A sentence where `accelerate launch` was asked for several processes and one runs, else nothing.

    For several processes on CPUs accelerate wants MPI; without it, it sets an address to meet at and starts one process
    that nobody meets.

    Args:
        environment: That of the process.
        processes: How many of them accelerate knows of.

    Returns:
        The sentence, or an empty text.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
    if processes > 1 or not launched or any(name in environment for name in RANKS):
        return ""
    return (
        "accelerate launch was asked for several processes and started one, as it does on CPUs without MPI: for N "
        "processes give torchrun --nproc_per_node N trainers/train.py and the same options."
    )
