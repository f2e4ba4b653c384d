"""Damaged picture files to restored ones: what the command line and the page call."""

from __future__ import annotations

from ambient_solve.restore.files import Outcome, plan, restore_file, restore_files
from ambient_solve.restore.old import OldPhotograph
from ambient_solve.restore.pictures import Picture, read_kernel, read_mask, read_measurement
from ambient_solve.restore.tasks import (
    TASKS,
    Denoise,
    GaussianBlur,
    Inpaint,
    JpegBlocks,
    MotionBlur,
    SuperResolution,
    Task,
    make_task,
)

__all__ = [
    "Denoise",
    "GaussianBlur",
    "Inpaint",
    "JpegBlocks",
    "MotionBlur",
    "OldPhotograph",
    "Outcome",
    "Picture",
    "SuperResolution",
    "TASKS",
    "Task",
    "make_task",
    "plan",
    "read_kernel",
    "read_mask",
    "read_measurement",
    "restore_file",
    "restore_files",
]
