"""What the tab says of a clip and of its restoration, in the words of people who make films."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ambient_solve.app.panels import duration
from ambient_solve.errors import ShortVideo, on_a_page

if TYPE_CHECKING:
    from ambient_solve.video.files import VideoFacts
    from ambient_solve.video.restoring import ClipRequest
    from ambient_solve.video.store import VideoOutcome


def timecode(frame: int, rate: float) -> str:
    """When a frame is shown, such as "1:02.5".

    Args:
        frame: From 0.
        rate: Frames a second.

    Returns:
        Minutes and seconds.
    """
    tenths = round(10 * frame / rate)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def facts_words(name: str, facts: VideoFacts) -> str:
    """What a clip is, in one line.

    Args:
        name: Of the file.
        facts: What it says of itself.

    Returns:
        The words.
    """
    height, width = facts.size
    sound = "with sound, which is kept" if facts.sound else "without sound"
    return (
        f"{name}: {width}x{height} pixels, {counted(facts.frames)}, {timecode(facts.frames, facts.rate)} at "
        f"{facts.rate:.4g} frames a second, {sound}."
    )


def counted(frames: int) -> str:
    """A number of frames in words."""
    return f"{frames} frame{'s' * (frames != 1)}"


def part_words(facts: VideoFacts, first: int, last: int, size: tuple[int, int]) -> str:
    """Which part of a clip is restored, at which size.

    Args:
        facts: What the file says of the clip.
        first: Number of the first frame.
        last: Number of the last frame.
        size: (H, W) at which frames are restored.

    Returns:
        A sentence.
    """
    count = last - first + 1
    if count < 1:
        return "The last frame comes before the first one."
    shrunk = "" if size == facts.size else f", made smaller from {facts.size[1]}x{facts.size[0]}"
    return (
        f"{counted(count)}, {timecode(first, facts.rate)} to {timecode(last + 1, facts.rate)}, {size[1]}x{size[0]} "
        f"pixels{shrunk}."
    )


def outcome_words(outcome: VideoOutcome, request: ClipRequest, rate: float) -> str:
    """What became of a clip, and what one should know of it.

    Args:
        outcome: Of the restoration.
        request: What was asked for.
        rate: Frames a second.

    Returns:
        Markdown: a sentence, and a list of warnings and notes.
    """
    lines = [f"**{counted(outcome.frames)} restored** in {duration(max(outcome.seconds, 1))}."]
    for cut in outcome.cuts:
        at = request.first + cut
        lines.append(
            f"- **Scene cut.** Another scene begins at frame {at} ({timecode(at, rate)}). It was restored by itself, "
            "with nothing taken over from the scene before."
        )
    if outcome.mask_ends is not None:
        at = outcome.mask_ends
        lines.append(
            f"- **What you painted ends at the cut.** From frame {at} on nothing was taken out: set *First frame* to "
            f"{at}, paint there, and restore that scene too."
        )
    if outcome.still:
        lines.append(
            "- **Nothing moves in this part.** All frames show the same, and what one of them hides, the others hide "
            "too. The tab *Photographs* does as much with one of them."
        )
    if outcome.warning:
        lines.append(f"- **It does not fit.** {outcome.warning}")
    lines += [f"- {note[0].upper()}{note[1:]}." for note in outcome.notes]
    return "\n".join([lines[0], "", *lines[1:]])


def trouble(error: Exception, first: int = 0) -> str:
    """An error in the words of the page.

    Args:
        error: What went wrong.
        first: Number of the first frame that was asked for.

    Returns:
        One or two sentences, without a folder.
    """
    if not isinstance(error, ShortVideo):
        return on_a_page(error)
    name = error.called_by_name().path
    if error.frames <= first:
        return f"{name} has only {counted(error.frames)} that can be read: choose an earlier first frame."
    return (
        f"{name} breaks off: only {counted(error.frames)} can be read. Last frame is set to {error.frames - 1}; press "
        "Restore again for the part that is whole."
    )
