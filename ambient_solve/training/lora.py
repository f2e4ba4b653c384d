r"""LoRA: matrices of low rank beside frozen weights, `W + B A`, by peft (Hu et al., 2022, arXiv 2106.09685).

`B` starts at 0: the network computes at first what it did, to the bit. Merged into the weights at the end, the prior is
one like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.saving import save_tensors

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""Layers that low rank is added to."""
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "qkv", "proj_out")
"""How the names of the projections of attention end, in diffusers and in guided-diffusion."""
ADAPTER = "adapter"
"""Name of the folder of the matrices alone, in the folder of a run."""


def targets(network: nn.Module, layers: str) -> list[str]:
    """The names of the layers that low rank is added to.

    Args:
        network: The network.
        layers: "attention", "all", or "auto", which is the first where there is any.

    Returns:
        Names, in the order of the network.

    Raises:
        AmbientSolveError: attention was asked for, and there is none; or none of the layers is a plain one.
    """
    every = [name for name, module in network.named_modules() if type(module) in LAYERS]
    found = [name for name in every if f".{name}".endswith(tuple(f".{end}" for end in ATTENTION))]
    if not every:
        raise AmbientSolveError(
            "tuning: {kind: lora} finds no layer that it can stand beside in this network: choose kind: full."
        )
    if not found and layers == "attention":
        raise AmbientSolveError("tuning: layers = attention, and this network has none: choose all, or auto.")
    return every if layers == "all" or not found else found


def add_lora(network: nn.Module, rank: int, layers: str, whole: tuple[str, ...] = ()) -> None:
    """Freeze a network and add what learns beside it, in place.

    Args:
        network: The network.
        rank: Of each matrix, 1 or more.
        layers: Where: see `targets`.
        whole: Names of layers that learn all of their weights, such as an input convolution with new channels.

    Raises:
        AmbientSolveError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise AmbientSolveError(
            "tuning: {kind: lora} needs peft: pip install 'ambient-solve[train]', or choose kind: full."
        ) from None
    names = [name for name in targets(network, layers) if name not in whole]
    network.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=_exactly(names)), network)
    for name in whole:
        network.get_submodule(name).requires_grad_(True)


def _exactly(names: list[str]) -> str:
    """A pattern that matches these names alone; a list would match the ends of names too."""
    return f"^({'|'.join(name.replace('.', r'[.]') for name in names)})$"


def merge_lora(network: nn.Module) -> None:
    """Add the matrices of low rank to the weights beside them, in place; a network without any stays as it is."""
    for name, module in list(network.named_modules()):
        if not hasattr(module, "lora_A") or not hasattr(module, "merge"):
            continue
        merged: Any = module
        merged.merge()
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, merged.get_base_layer())


def save_adapter(network: nn.Module, folder: Path) -> None:
    """Write the matrices of low rank alone, as peft and diffusers read them.

    Args:
        network: With low rank added, not merged.
        folder: Where to; made where it is missing.
    """
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in get_peft_model_state_dict(network).items()}
    save_tensors(tensors, folder / "adapter_model.safetensors")
    next(iter(network.peft_config.values())).save_pretrained(str(folder))


def trainable(network: nn.Module) -> tuple[int, int]:
    """How many weights of a network learn, and how many it has."""
    numbers = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return sum(n for n, learns in numbers if learns), sum(n for n, _ in numbers)


def add_recomputing(network: nn.Module, blocks: tuple[type, ...]) -> None:
    """Let blocks hold nothing for the backward pass and compute it again there (Chen et al., 2016, arXiv 1604.06174).

    Args:
        network: The network; one of diffusers does it its own way.
        blocks: Classes of the blocks of others.
    """
    if hasattr(network, "enable_gradient_checkpointing"):
        network.enable_gradient_checkpointing()
        return
    for module in network.modules():
        if isinstance(module, blocks):
            module.forward = _recomputed(module.forward)


def _recomputed(forward: Any) -> Any:
    from torch.utils.checkpoint import checkpoint

    def again(*given: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*given)
        return checkpoint(forward, *given, use_reentrant=False)

    return again
