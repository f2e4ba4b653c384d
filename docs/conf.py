"""Sphinx configuration: `sphinx-build -W -b html docs docs/_build` builds the pages offline.

Links into the documentation of torch and deepinv need their inventories, which are fetched only where INTERSPHINX=1 is
set: a build must not depend on the network.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# The kernel of the notebooks imports this tree too, on one thread as the tests do.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

from ambient_solve.version import __version__  # noqa: E402

project = "ambient_solve"
author = "The ambient_solve developers"
copyright = author  # noqa: A001
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
if os.environ.get("INTERSPHINX") == "1":
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "deepinv": ("https://deepinv.github.io/deepinv", None),
    }

html_theme = "furo"
html_title = f"ambient_solve {release}"
exclude_patterns = ["_build", "jupyter_execute", ".jupyter_cache"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Executed where the text of a notebook has changed; a notebook that fails ends the build.
nb_execution_mode = "cache"
nb_execution_cache_path = str(Path(__file__).with_name(".jupyter_cache"))
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"  # `name` in a docstring is code


def plain(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with code in backticks: a star outside of these, as in (B, *shape), is a star."""
    code = False
    for i, line in enumerate(lines):
        parts = line.split("`")
        for j, part in enumerate(parts):
            if not (code ^ bool(j % 2)):
                parts[j] = part.replace("*", r"\*")
        code ^= len(parts) % 2 == 0
        lines[i] = "`".join(parts)


def setup(app: object) -> None:
    """Before napoleon, which has the priority 500."""
    app.connect("autodoc-process-docstring", plain, priority=400)
