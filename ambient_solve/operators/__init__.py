"""Measurement operators: named builders that return deepinv physics objects, and the few operators deepinv lacks."""

from __future__ import annotations

from ambient_solve.operators.builders import (
    BUILDERS,
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
    quantize,
    super_resolution,
)
from ambient_solve.operators.coefficients import JpegCoefficients
from ambient_solve.operators.composition import compose
from ambient_solve.operators.jpeg import Jpeg
from ambient_solve.operators.kspace_masks import make_mask
from ambient_solve.operators.line import line_blur
from ambient_solve.operators.mri import MultiCoil
from ambient_solve.operators.noncartesian import NonCartesian
from ambient_solve.operators.nonlinear import CameraBlur, Clipping, Diffraction, Quantization
from ambient_solve.operators.reduction import Reduction
from ambient_solve.operators.video import JoinedFrames, frame_rate, temporal_average

__all__ = [
    "BUILDERS",
    "CameraBlur",
    "Clipping",
    "Diffraction",
    "JoinedFrames",
    "Jpeg",
    "JpegCoefficients",
    "MultiCoil",
    "NonCartesian",
    "Quantization",
    "Reduction",
    "camera_blur",
    "clip",
    "compose",
    "denoise",
    "frame_rate",
    "gaussian_blur",
    "inpaint",
    "inpaint_box",
    "inpaint_random",
    "jpeg",
    "line_blur",
    "make_mask",
    "motion_blur",
    "phase_retrieval",
    "quantize",
    "super_resolution",
    "temporal_average",
]
