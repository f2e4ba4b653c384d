"""What is chosen on the tab: what is wrong with the clip, which part of it, and the request that this describes."""

from __future__ import annotations

import importlib.util
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambient_solve.app import painter, widgets
from ambient_solve.app.clips.session import ClipSession
from ambient_solve.app.clips.values import KNOBS, ClipControls
from ambient_solve.app.clips.words import part_words
from ambient_solve.app.folders import MAX_SAMPLES, MAX_STEPS
from ambient_solve.app.photographs.choices import prior_of
from ambient_solve.app.photographs.controls import start_value, task_knobs
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knobs
from ambient_solve.restore.tasks import TASKS

if TYPE_CHECKING:
    from ambient_solve.priors.base import Prior
    from ambient_solve.video.restoring import ClipRequest


@dataclass(frozen=True)
class Wrong:
    """Something that may be wrong with a clip.

    Attributes:
        words: For the page. task: Name of the task that restores it.
        painting: What is said above the picture where one paints; empty where one does not.
        follow: What is painted follows the motion.
    """

    words: str
    task: str
    painting: str = ""
    follow: bool = False


WRONG = {
    "denoise": Wrong("Noise or grain", "denoise"),
    "scratches": Wrong(
        "Scratches and dirt that stand still",
        "inpaint",
        "Paint over what is on every frame at the same place, such as a scratch of the film or dust on the lens.",
    ),
    "thing": Wrong(
        "Something is to go (paint it once, it is followed)",
        "inpaint",
        "Paint over what is to go, on this first frame, and as closely as you can. It is followed from frame to frame.",
        follow=True,
    ),
    "super-resolution": Wrong("Too small", "super-resolution"),
    "gaussian-blur": Wrong("Out of focus", "gaussian-blur"),
    "motion-blur": Wrong("Blurred by a movement of the camera", "motion-blur"),
}
"""What may be wrong with a clip, by name."""
SIZES = (128, 192, 256, 384, 512, 768, 0)
"""Longer sides at which frames are restored, in pixels; 0 leaves them as they are."""
ALGORITHM = "proximal"
"""The algorithm of the qualities."""
QUALITIES = {"Quick look": 8, "Good": 20, "Thorough": 50}
"""Noise levels of each frame, by the name of a quality."""
TO_BEGIN = 24
"""Frames that are chosen when a clip is put in: a part first shows whether the settings are right."""
SMALL = 96
"""Longer side, in pixels, up to which the motion is found by a slower and better rule."""


def estimated(wrong: str) -> list[str]:
    """The knobs that can be estimated from the first frame.

    Args:
        wrong: One of `WRONG`.

    Returns:
        Their names.
    """
    task = WRONG[wrong].task
    return [k.name for k in knobs(TASKS[task]) if k.auto and k.name in KNOBS]


def shown_knobs(wrong: str, found: bool) -> list[str]:
    """The knobs that are to be set by hand.

    Args:
        wrong: One of `WRONG`.
        found: Whether those that can be are estimated.

    Returns:
        Their names.
    """
    own = [name for name in task_knobs(WRONG[wrong].task) if name in KNOBS]
    return [name for name in own if not (found and name in estimated(wrong))]


def choose_wrong(values: ClipControls) -> dict[str, Any]:
    """Show the controls of what is wrong.

    Args:
        values: Of the tab.

    Returns:
        Updates by the name of the part.
    """
    import gradio as gr

    chosen = WRONG[values.wrong]
    shown = shown_knobs(values.wrong, values.found)
    updates: dict[str, Any] = {name: gr.update(visible=name in shown) for name in KNOBS}
    for name in shown:
        updates[name] = gr.update(visible=True, value=start_value(chosen.task, name))
    painting = bool(chosen.painting)
    updates["painting"] = gr.update(value=chosen.painting, visible=painting)
    updates["mask_file"] = gr.update(visible=painting)
    for name in ("find", "scratches"):
        updates[name] = gr.update(visible=values.wrong == "scratches")
    updates["found"] = gr.update(visible=bool(estimated(values.wrong)))
    return updates


def choose_quality(values: ClipControls) -> dict[str, Any]:
    """Set algorithm and knobs as a quality has them.

    Args:
        values: The preset is read.

    Returns:
        Updates by the name of the part.
    """
    chosen = {"steps": QUALITIES[values.preset]}
    return {"algorithm": ALGORITHM, "knobs": chosen, "loaded": dict(chosen)}


def choose_found(values: ClipControls) -> dict[str, Any]:
    """Show the knobs that are set by hand, once it is chosen which are.

    Args:
        values: Of the tab.

    Returns:
        Updates by the name of the part.
    """
    import gradio as gr

    shown = shown_knobs(values.wrong, values.found)
    return {name: gr.update(visible=name in shown) for name in KNOBS}


def clip_of(values: ClipControls) -> ClipSession:
    """The session, which has a clip.

    Args:
        values: Of the tab.

    Returns:
        The session.

    Raises:
        AmbientSolveError: no clip was put in, or it is no longer kept.
    """
    session = values.session
    if session is None or session.path is None or session.facts is None:
        raise AmbientSolveError("Put in a clip first.")
    if not session.path.is_file():
        raise AmbientSolveError("The clip is no longer kept: put it in again.")
    return session


def part(values: ClipControls) -> dict[str, Any]:
    """Say which part of the clip is chosen.

    Args:
        values: Of the tab.

    Returns:
        The update of that sentence; empty without a clip.
    """
    if values.session is None or values.session.facts is None:
        return {"part": ""}
    from ambient_solve.video.clip import working_size

    facts = values.session.facts
    size = working_size(facts.size, int(values.size) or None)
    return {"part": part_words(facts, int(values.first), int(values.last), size)}


def request_of(values: ClipControls) -> ClipRequest:
    """The request that the controls describe; what was painted is written beside the clip.

    Args:
        values: Of the tab, with a clip.

    Returns:
        The request.

    Raises:
        AmbientSolveError: there is no clip, nothing is painted, or more is asked for than the page does.
    """
    from ambient_solve.restore.tasks import make_task
    from ambient_solve.video.clip import working_size
    from ambient_solve.video.restoring import ClipRequest

    session, chosen = clip_of(values), WRONG[values.wrong]
    options, samples = dict(values.knobs or {}), int(values.samples)
    if not 1 <= samples <= MAX_SAMPLES or not 1 <= options.get("steps", 1) <= MAX_STEPS:
        raise AmbientSolveError(
            f"The page draws 1 to {MAX_SAMPLES} samples in 1 to {MAX_STEPS} levels: take the command line for more."
        )
    first, last = int(values.first), int(values.last)
    if not 0 <= first <= last:
        raise AmbientSolveError(f"First frame is {first} and last frame {last}: choose a last one that is not earlier.")
    known = {k.name: k for k in knobs(TASKS[chosen.task])}
    given = {name: widgets.knob_value(known[name], values.damage[name]) for name in shown_knobs(values.wrong, False)}
    if values.found:
        given |= dict.fromkeys(estimated(values.wrong), "auto")
    masked = {"mask": str(_mask(session, values))} if chosen.painting else {}
    side = int(values.size) or None
    return ClipRequest(
        damage=make_task(chosen.task, **given, **masked),
        first=first,
        last=last + 1,
        side=side,
        follow=chosen.follow and session.masks is None,
        n_samples=samples,
        algorithm=values.algorithm,
        options=options,
        noise=values.noise,
        flow=flow_for(working_size(session.facts.size, side)),
        guidance=float(values.guidance),
        seed=int(values.seed),
    )


def flow_for(size: tuple[int, int]) -> str:
    """How the motion of frames is found.

    Args:
        size: (H, W), in pixels.

    Returns:
        Name of a flow.
    """
    fast = importlib.util.find_spec("cv2") is not None and max(size) > SMALL
    return "dis" if fast else "tvl1"


def _mask(session: ClipSession, values: ClipControls) -> Path:
    """The file of the mask: a video that was put in, or what is painted."""
    import numpy as np
    from PIL import Image

    if session.masks is not None:
        return session.masks
    missing = painter.painted(values.editor)
    if missing is None:
        raise AmbientSolveError("Nothing is painted: paint over what is missing on the picture, or upload a mask.")
    image = Image.fromarray(missing.astype(np.uint8) * 255)
    if image.size != session.facts.size[::-1]:
        image = image.resize(session.facts.size[::-1], Image.Resampling.NEAREST)
    path = session.work / "mask.png"
    image.save(path)
    return path


def lane_prior(values: ClipControls, lane: str) -> Prior:
    """The prior that is chosen, where it is offered here.

    Args:
        values: Of the tab.
        lane: Name of the lane that works with it.

    Returns:
        The prior, loaded once for each lane.

    Raises:
        AmbientSolveError: it is not offered here.
    """
    from ambient_solve.app.desk import LONG

    values.rules.check_prior(values.prior)
    return prior_of(values.prior, values.device, *([lane] if lane == LONG else []))


def offers(values: ClipControls) -> dict[str, Any]:
    """What there is to choose, once the page stands: it takes torch, which takes seconds."""
    import gradio as gr

    from ambient_solve.algorithms import ALGORITHMS

    priors = gr.update(choices=values.rules.offered())
    return {"algorithm": gr.update(choices=["auto", *ALGORITHMS]), "prior": priors}


def command(request: ClipRequest, name: str, prior: str) -> str:
    """The command line that repeats a request.

    Args:
        request: What was asked for.
        name: Of the clip.
        prior: Name of the prior.

    Returns:
        The command, quoted for a shell, and a word on the mask.
    """
    damage, plain = request.damage, {}
    for k in knobs(type(damage)):
        value = getattr(damage, k.name)
        if value is not None and value != k.default:
            plain[k.name] = Path(value).name if k.name == "mask" else value
    words = ["ambient-solve", "video", name, "--task", damage.name]
    for flag, value in plain.items():
        words += [f"--{flag}", str(value)]
    words += ["--follow"] if request.follow else []
    words += ["--frames", f"{request.first}:{request.last}", "--side", str(request.side or 0)]
    words += ["--samples", str(request.n_samples), "--algorithm", request.algorithm]
    for knob, value in request.options.items():
        words += [f"--algorithm.{knob}", str(value).lower() if isinstance(value, bool) else str(value)]
    words += ["--noise", request.noise, "--flow", request.flow, "--guidance", f"{request.guidance:g}"]
    words += ["--seed", str(request.seed), "--prior", prior]
    head = "# mask.png is what you painted: Download the mask.\n" if plain.get("mask") == "mask.png" else ""
    return head + shlex.join(words)
