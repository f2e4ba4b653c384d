"""Checkpoints of score_sde (Song et al., 2021, arXiv 2011.13456), as networks of EDM: the same layers, other names.

Its modules stand in one list, `all_modules`, in the order in which the picture goes through them. Two architectures are
read, as their paper describes them (appendix H): DDPM++, which changes the resolution by means over pixels, and NCSN++
for small pictures, which does so by the filter (1, 3, 3, 1) and adds the picture itself at every level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, reason
from ambient_solve.priors.edm import FILTERS

LIST = "all_modules."
"""How the names of its modules begin."""
LEVELS = "sigmas"
"""Its noise levels, of pictures in [0, 1], which it holds beside the modules."""
WAVES = "all_modules.0.W"
"""The frequencies of the embedding of the level, which are not trained."""
SMALLEST = 4
"""Pixels along one side of the last level, where names need one: CIFAR-10 has 32 in four levels."""
MAX_MODULES = 5000
"""Modules of a network, at most."""
OF_BLOCK = {
    "GroupNorm_0": "norm0",
    "Conv_0": "conv0",
    "Dense_0": "affine",
    "GroupNorm_1": "norm1",
    "Conv_1": "conv1",
    "Conv_2": "skip",
}
"""Layers of a residual block, there and here."""
Part = dict[str, Tensor]


def _what(part: Part) -> str:
    """What a module is, by the names and shapes of its tensors."""
    if "GroupNorm_1.weight" in part and "Conv_0.weight" in part:
        first = part["Conv_0.weight"].shape
        return "moving block" if "Conv_2.weight" in part and first[0] == first[1] else "block"
    if "NIN_3.W" in part:
        return "attention"
    if "Conv2d_0.weight" in part:
        return "convolution of the picture"
    if "W" in part:
        return "embedding"
    if "weight" in part:
        return {4: "convolution", 2: "linear layer", 1: "normalization"}.get(part["weight"].ndim, "unknown layer")
    return "combination with the picture" if set(part) == {"Conv_0.weight", "Conv_0.bias"} else "unknown layer"


@final
class _Walk:
    """The modules of a checkpoint, one after the other, and what they are called here.

    Args:
        state: Tensors by name.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        parts: dict[int, Part] = {}
        for name, t in state.items():
            number, _, rest = name.removeprefix(LIST).partition(".")
            if not name.startswith(LIST) or not number.isdecimal() or int(number) >= MAX_MODULES:
                raise _no_network(f"{name[:80]} is none of its tensors")
            parts.setdefault(int(number), {})[rest] = t
        if not parts or sorted(parts) != list(range(len(parts))):
            raise _no_network("modules are missing from all_modules")
        self.parts = [parts[i] for i in range(len(parts))]
        self.kinds = [_what(part) for part in self.parts]
        self.at, self.named = 0, dict[str, Tensor]()
        self.taps = 4 if "convolution of the picture" in self.kinds else 2

    def next_is(self, kind: str) -> bool:
        """Whether the next module is of a kind."""
        return self.at < len(self.kinds) and self.kinds[self.at] == kind

    def take(self, kind: str, name: str) -> None:
        """Take the next module, which must be of a kind, under a name."""
        if not self.next_is(kind):
            found = self.kinds[self.at] if self.at < len(self.kinds) else "missing"
            larger = " (networks for 256 pixels and more add pictures to it, and are not read)"
            more = larger if "combination with the picture" in self.kinds else ""
            raise _no_network(f"module {self.at} is a {found} where a {kind} was expected{more}")
        part, self.at = self.parts[self.at], self.at + 1
        moved = kind in ("moving block", "convolution of the picture")
        for inner, t in part.items():
            layer, _, what = inner.rpartition(".")
            own = {"Conv2d_0": ""}.get(layer, OF_BLOCK.get(layer, layer))
            if kind != "attention":
                self.named[".".join(filter(None, (name, own, what)))] = t
        if kind == "attention":
            self._attention(part, name)
        if moved:
            row = torch.tensor(FILTERS[self.taps])
            for layer in ("conv0.", "skip.") if kind == "moving block" else ("",):
                self.named[f"{name}.{layer}resample_filter"] = (row[:, None] * row / row.sum() ** 2)[None, None].clone()

    def _attention(self, part: Part, name: str) -> None:
        """Attention, whose three projections are one here: q, k and v of one channel stand together."""
        known = {f"NIN_{i}.{what}" for i in range(4) for what in "Wb"} | {"GroupNorm_0.weight", "GroupNorm_0.bias"}
        if set(part) != known:
            raise _no_network(f"module {self.at - 1} is no whole attention")
        for what in ("weight", "bias"):
            self.named[f"{name}.norm2.{what}"] = part[f"GroupNorm_0.{what}"]
        rows = torch.stack([part[f"NIN_{i}.W"].T for i in range(3)], 1).flatten(0, 1)
        self.named[f"{name}.qkv.weight"] = rows[:, :, None, None].contiguous()
        self.named[f"{name}.qkv.bias"] = torch.stack([part[f"NIN_{i}.b"] for i in range(3)], 1).flatten()
        self.named[f"{name}.proj.weight"] = part["NIN_3.W"].T[:, :, None, None].contiguous()
        self.named[f"{name}.proj.bias"] = part["NIN_3.b"]


def as_edm(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint under the names of `Edm`, and the levels of its training.

    Args:
        state: Tensors by name.

    Returns:
        Tensors by name; sigma_min and sigma_max in units of pictures in [-1, 1], where the checkpoint holds levels.

    Raises:
        AmbientSolveError: it is no DDPM++ and no NCSN++ for small pictures.
    """
    walk = _Walk({name: t for name, t in state.items() if name != LEVELS})
    try:
        _walked(walk)
    except (RuntimeError, IndexError) as error:
        raise _no_network(f"module {walk.at - 1} has tensors of other shapes ({reason(error)})") from None
    levels, found = state.get(LEVELS), dict[str, Any]()
    if levels is not None and levels.numel():
        found = {"sigma_min": 2 * float(levels.min()), "sigma_max": 2 * float(levels.max())}
    return walk.named, found


def _walked(walk: _Walk) -> None:
    """Take all modules."""
    moves = [i for i, kind in enumerate(walk.kinds) if kind == "moving block"]
    top = len(moves) // 2
    if not moves:
        raise _no_network("it has a single resolution")
    blocks = walk.kinds[: moves[0]].count("block")
    sides = [f"{SMALLEST << (top - i)}x{SMALLEST << (top - i)}" for i in range(top + 1)]

    def block(name: str, attention: bool = False) -> None:
        walk.take("block", name)
        if attention or walk.next_is("attention"):
            walk.take("attention", name)

    if walk.next_is("embedding"):
        walk.take("embedding", "map_noise")
        walk.named["map_noise.freqs"] = walk.named.pop("map_noise.W")
    walk.take("linear layer", "map_layer0")
    walk.take("linear layer", "map_layer1")
    walk.take("convolution", f"enc.{sides[0]}_conv")
    for i, side in enumerate(sides):
        if i:
            walk.take("moving block", f"enc.{side}_down")
        if i and walk.taps == 4:
            walk.take("convolution of the picture", f"enc.{side}_aux_residual")
        for j in range(blocks):
            block(f"enc.{side}_block{j}")
    block(f"dec.{sides[-1]}_in0", attention=True)
    block(f"dec.{sides[-1]}_in1")
    for i, side in reversed(list(enumerate(sides))):
        if i < top:
            walk.take("moving block", f"dec.{side}_up")
        for j in range(blocks + 1):
            block(f"dec.{side}_block{j}")
    walk.take("normalization", f"dec.{sides[0]}_aux_norm")
    walk.take("convolution", f"dec.{sides[0]}_aux_conv")
    if walk.at < len(walk.kinds):
        raise _no_network(f"module {walk.at} is not expected")


def averaged_state(found: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The averaged weights of a checkpoint of training, which keeps them as a list without names.

    Args:
        found: What the file holds.

    Returns:
        Tensors by name, those that are not averaged as they are; None where the file has no such list.

    Raises:
        AmbientSolveError: the list does not fit the weights beside it.
    """
    ema, state = found.get("ema"), found.get("model")
    shadow = ema.get("shadow_params") if isinstance(ema, dict) else None
    if not isinstance(shadow, list) or not isinstance(state, dict):
        return None
    names = [name for name in state if name.removeprefix("module.") not in (LEVELS, WAVES)]
    fits = len(names) == len(shadow) and all(
        isinstance(t, Tensor) and isinstance(state[name], Tensor) and t.shape == state[name].shape
        for name, t in zip(names, shadow, strict=True)
    )
    if not fits:
        raise AmbientSolveError(
            "The averaged weights of the checkpoint (ema.shadow_params) do not fit the names beside them: save the "
            "state_dict() of the averaged network."
        )
    return {**state, **dict(zip(names, shadow, strict=True))}


def _no_network(why: str) -> AmbientSolveError:
    return AmbientSolveError(
        f"The checkpoint is no DDPM++ and no NCSN++ of score_sde that is read: {why}. Choose another --kind."
    )
