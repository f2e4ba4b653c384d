"""Measurement operators: named builders that return deepinv physics objects, and the few operators deepinv lacks."""

from __future__ import annotations

from ambient_solve.operators.builders import (
    TASKS,
    denoise,
    gaussian_blur,
    inpaint,
    inpaint_box,
    inpaint_random,
    jpeg,
    motion_blur,
    super_resolution,
)
from ambient_solve.operators.jpeg import Jpeg

__all__ = [
    "TASKS",
    "Jpeg",
    "denoise",
    "gaussian_blur",
    "inpaint",
    "inpaint_box",
    "inpaint_random",
    "jpeg",
    "motion_blur",
    "super_resolution",
]
