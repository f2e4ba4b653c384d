"""Video files: frames in, frames out, one after another, with the sound copied. PyAV, which brings FFmpeg, does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, ShortVideo, UnreadableFile, one_line
from ambient_solve.reading.pictures import MAX_PIXELS

CRF = 14
"""Constant rate factor of what is written: about 45 dB, hard to tell from the frames themselves."""
SHARE = 2
"""Sides of frames in yuv420p are multiples of this number."""
SAFE = {
    "format_whitelist": "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,ogg,flv,asf,mxf,dv,gif,nut",
    "protocol_whitelist": "file",
}
"""Containers that hold a video by themselves: a playlist names other files, of this machine or of the net."""
WRITTEN = (".mp4", ".mov", ".mkv")
"""Suffixes of what is written, the most common first."""


@final
@dataclass(frozen=True)
class VideoFrame:
    """A frame of a file.

    Attributes:
        number: From 0, counted from the beginning of the file.
        pixels: (3, H, W) uint8, upright.
        time: When it is shown, in seconds from the beginning.
    """

    number: int
    pixels: Tensor
    time: Fraction


@final
@dataclass(frozen=True)
class VideoFacts:
    """What a file says of its video.

    Attributes:
        frames: How many there are.
        rate: Frames a second.
        size: (H, W) of the first one, upright.
        sound: Whether there is any.
    """

    frames: int
    rate: float
    size: tuple[int, int]
    sound: bool


def video_facts(path: str | Path) -> VideoFacts:
    """What a file says of its video, where its first frame can be read.

    Args:
        path: The file.

    Returns:
        The facts; frames are counted where the file does not say how many it has.

    Raises:
        AmbientSolveError: as for `read_video`.
    """
    first = next(read_video(path))
    with _opened(Path(path)) as (_, container):
        stream = _video_stream(container, Path(path))
        frames = stream.frames or sum(bool(packet.size) for packet in container.demux(stream))
        rate, sound = float(stream.average_rate or 25), bool(container.streams.audio)
    return VideoFacts(max(frames, 1), rate, tuple(first.pixels.shape[1:]), sound)


def read_video(path: str | Path, first: int = 0, last: int | None = None) -> Iterator[VideoFrame]:
    """The frames of a video file, one at a time.

    Args:
        path: The file.
        first: Number of the first frame that is given.
        last: Number behind that of the last one; None goes to the end.

    Yields:
        The frames.

    Raises:
        AmbientSolveError: PyAV is not installed, the file is no video or breaks off, or it has not as many frames.
    """
    path, given, number = Path(path), 0, -1
    with _opened(path) as (av, container):
        stream = _video_stream(container, path)
        stream.thread_type = "AUTO"
        rate = stream.average_rate or Fraction(25)
        if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
            raise UnreadableFile(path, f"has frames of more than {MAX_PIXELS:,} pixels.")
        try:
            for number, frame in enumerate(container.decode(stream)):
                if last is not None and number >= last:
                    break
                if frame.width * frame.height > MAX_PIXELS:  # a file may change its mind on the way
                    raise UnreadableFile(path, f"has frames of more than {MAX_PIXELS:,} pixels.")
                if number < first:
                    continue
                time = number / rate if frame.pts is None else frame.pts * Fraction(frame.time_base)
                exact = frame.reformat(format="rgb24", interpolation=_exact(av)).to_ndarray()
                values = np.rot90(exact, (getattr(frame, "rotation", 0) or 0) // 90)
                given += 1
                yield VideoFrame(number, torch.from_numpy(values.copy()).permute(2, 0, 1), Fraction(time))
        except av.error.FFmpegError as error:
            said = f"breaks off after {first + given} frames: {one_line(error)}."
            raise ShortVideo(path, first + given, said) from None
    if not given or (last is not None and first + given < last):
        end = "" if last is None else f" to {last}"
        said = f"has {first + given if given else 'no'} frames, {first}{end} were asked for."
        raise ShortVideo(path, first + given if given else number + 1, said)


def count_frames(path: str | Path) -> int | None:
    """How many frames a file says it has.

    Args:
        path: The file.

    Returns:
        Their number, or None where it does not say.

    Raises:
        AmbientSolveError: as for `read_video`.
    """
    with _opened(Path(path)) as (_, container):
        return _video_stream(container, Path(path)).frames or None


@final
class VideoWriter:
    """A video file that is written frame by frame, in H.264; a context manager.

    The file is not there until it is complete. Sound is copied as it is, from the time of the first frame on, where the
    container takes it: see `takes_sound`.

    Args:
        path: The file; its suffix says the container, such as .mp4 or .mkv.
        like: The video whose rate and sound it has.
        comment: Stored in the file.
        sound: False leaves the sound out.
    """

    def __init__(self, path: str | Path, like: str | Path, comment: str = "", *, sound: bool = True) -> None:
        self.path, self.like, self._comment = Path(path), Path(like), comment
        self._with_sound = sound
        self._part = self.path.with_name(f"{self.path.stem}.part{self.path.suffix}")
        self._start: Fraction | None = None
        self._sound: Iterator[Any] = iter(())
        self._packet: Any = None

    def __enter__(self) -> VideoWriter:
        self._opened = _opened(self.like)
        self._av, self._source = self._opened.__enter__()
        try:
            self._container = self._av.open(str(self._part), "w")
        except (self._av.error.FFmpegError, ValueError) as error:
            raise AmbientSolveError(f"{self.path} cannot be written as a video: {one_line(error)}.") from None
        if self._comment:
            self._container.metadata["comment"] = self._comment
        return self

    def write(self, pixels: Tensor, time: Fraction) -> None:
        """Write a frame.

        Args:
            pixels: (3, H, W) uint8.
            time: When it is shown, in seconds; times rise.
        """
        height, width = pixels.shape[1:]
        if self._start is None:
            self._start = time
            self._begin(height, width)
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()), format="rgb24")
        frame = frame.reformat(
            format=self._stream.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG", interpolation=_exact(self._av)
        )
        frame.time_base = self._base
        frame.pts = round((time - self._start) / self._base)
        self._copy_sound(time)
        self._container.mux(self._stream.encode(frame))

    def _begin(self, height: int, width: int) -> None:
        source = _video_stream(self._source, self.like)
        stream = self._container.add_stream("libx264", rate=source.average_rate or 25)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if height % SHARE == width % SHARE == 0 else "yuv444p"
        # What x264 looks ahead at are small pictures with a margin that it leaves as the memory was: without, the same
        # frames are the same bytes.
        stream.options = {"crf": str(CRF), "x264-params": "mbtree=0:rc-lookahead=0:bframes=0"}
        context = stream.codec_context
        context.thread_count = 1  # the same bytes on every machine
        context.time_base = self._base = Fraction(source.time_base)
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 1, 1, 1, 1
        self._stream = stream
        template = next(iter(self._source.streams.audio), None)
        if self._with_sound and template is not None and _takes(self._container, template):
            self._audio = self._container.add_stream_from_template(template)
            self._sound = iter(self._source.demux(template))
            self._packet = next(self._sound, None)

    def _copy_sound(self, until: Fraction | None) -> None:
        while self._packet is not None:
            packet = self._packet
            when = None if packet.pts is None else packet.pts * Fraction(packet.time_base)
            if until is not None and when is not None and when > until:
                return
            if when is not None and when >= self._start:
                shift = round(self._start / Fraction(packet.time_base))
                packet.pts, packet.dts = packet.pts - shift, (packet.dts if packet.dts is not None else 0) - shift
                packet.stream = self._audio
                self._container.mux(packet)
            self._packet = next(self._sound, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._start is not None:
                self._container.mux(self._stream.encode(None))
                self._container.close()
                self._part.replace(self.path)
            else:
                self._container.close()
                self._part.unlink(missing_ok=True)
        finally:
            self._opened.__exit__(None, None, None)


def takes_sound(path: str | Path, suffix: str) -> bool:
    """Whether the sound of a video can be copied into a container.

    Args:
        path: The video.
        suffix: Of the container, such as ".mp4".

    Returns:
        True also where there is no sound.
    """
    import tempfile

    with _opened(Path(path)) as (av, container):
        template = next(iter(container.streams.audio), None)
        if template is None:
            return True
        with tempfile.TemporaryDirectory() as folder, av.open(str(Path(folder, f"none{suffix}")), "w") as empty:
            return _takes(empty, template)


def _takes(container: Any, template: Any) -> bool:
    return template.codec_context is not None and template.codec_context.name in container.supported_codecs


def comment_of(path: str | Path) -> str:
    """What is stored in a file as its comment.

    Args:
        path: A video file.

    Returns:
        The text; empty where there is none, or the file cannot be read.
    """
    try:
        with _opened(Path(path)) as (_, container):
            return container.metadata.get("comment", "")
    except AmbientSolveError:
        return ""


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    try:
        import av
    except ImportError:
        raise AmbientSolveError("Video files need PyAV: pip install 'ambient-solve[video]'.") from None
    if not path.is_file():
        raise AmbientSolveError(f"There is no file {path}.")
    try:
        container = av.open(str(path), options=SAFE)
    except (av.error.FFmpegError, ValueError):
        raise UnreadableFile(path, "is not a video that can be read.") from None
    with container:
        yield av, container


def _exact(av: Any) -> Any:
    """Settings of a conversion of colors that rounds; by default they are cut off, and come out too dark."""
    kinds = av.video.reformatter.Interpolation
    return kinds.BICUBIC | kinds.ACCURATE_RND | kinds.FULL_CHR_H_INT | kinds.FULL_CHR_H_INP


def _video_stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise UnreadableFile(path, "holds no picture, only sound.")
    return container.streams.video[0]
