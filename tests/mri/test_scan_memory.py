"""What a scan takes beside its k-space: less than that, since a small file may unpack to all that is allowed."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import torch
from ambient_solve.mri.apart import limit_memory
from ambient_solve.mri.scan import Scan
Scan(torch.ones(2, 2, 32, 32, dtype=torch.complex64))  # what the libraries take
shape, room = {shape}, {room}
kspace = torch.ones(*shape, dtype=torch.complex64)
kspace[..., shape[-2] // 2, shape[-1] // 2] = 2
limit_memory(room)
print(len(Scan(kspace)))
"""
BYTES = 8 * 64 * 8 * 256 * 256
"""Of the k-space, 268 MB."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not limit the memory of a process")
@pytest.mark.parametrize("shape", [(64, 8, 256, 256), (1, 512, 256, 256)], ids=["many slices", "many coils"])
@pytest.mark.parametrize(("room", "fits"), [(0.75 * BYTES, True), (0.02 * BYTES, False)], ids=["", "control"])
def test_a_scan_takes_less_beside_its_k_space_than_the_k_space(shape, room, fits):
    code = CODE.format(shape=shape, room=room)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.stdout.strip() == str(shape[0])) is fits, ended.stderr[-500:]
    assert fits or "memory" in ended.stderr.lower()
