"""Measurement operators: named builders that return deepinv physics objects, and the few operators deepinv lacks."""

from __future__ import annotations

from ambient_solve.operators.builders import (
    TASKS,
    camera_blur,
    clip,
    denoise,
    gaussian_blur,
    inpaint,
    inpaint_box,
    inpaint_random,
    jpeg,
    motion_blur,
    phase_retrieval,
    quantise,
    super_resolution,
)
from ambient_solve.operators.jpeg import Jpeg
from ambient_solve.operators.nonlinear import CameraBlur, Clipping, Diffraction, Quantisation

__all__ = [
    "TASKS",
    "CameraBlur",
    "Clipping",
    "Diffraction",
    "Jpeg",
    "Quantisation",
    "camera_blur",
    "clip",
    "denoise",
    "gaussian_blur",
    "inpaint",
    "inpaint_box",
    "inpaint_random",
    "jpeg",
    "motion_blur",
    "phase_retrieval",
    "quantise",
    "super_resolution",
]
