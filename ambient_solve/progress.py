"""Progress bars: on standard error, by default where someone looks at it, as widgets in a notebook."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def someone_looks() -> bool:
    """Whether someone looks: standard error is a terminal or a notebook, and this is the first of its processes."""
    if os.environ.get("RANK", "0") != "0":
        return False
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", ()) or (sys.stderr is not None and sys.stderr.isatty())


def progress_bar(
    over: Iterable[Any] | None = None,
    what: str = "",
    *,
    show: bool | None = None,
    total: int | None = None,
    unit: str = "it",
) -> tqdm:
    """A progress bar; a context manager, and an iterator where it is given what to go over.

    Args:
        over: What it counts; None where `update` is called instead.
        what: Words before the bar.
        show: Whether it is seen; None asks `someone_looks`.
        total: How many there will be, where `over` does not say.
        unit: What is counted.

    Returns:
        The bar of tqdm.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # without widgets the bar is one of text
        from tqdm.auto import tqdm

    return tqdm(over, what, total=total, unit=unit, disable=not (someone_looks() if show is None else show))
