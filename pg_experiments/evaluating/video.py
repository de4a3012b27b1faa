"""Frames with what they show written above them, as an mp4, a gif, or the bytes of a gif for TensorBoard."""

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pg_experiments.errors import ConfigError, UserError, first_line, needs_extra
from pg_experiments.evaluating.playing import Frame
from pg_experiments.progress import rounded

SUFFIXES = (".mp4", ".gif")
BAR, TEXT = 24, 14  # pixels: height of the line of text above a picture, and of its letters
LEAST_WIDTH = 400  # pixels: smaller pictures are enlarged, or the text has no room
HOLD_SECONDS = 1.0  # that the last picture of an episode stays
GIF_WIDTH = 320  # pixels at most
GIF_COLOURS = 128
GIF_FRAMES = 200  # of an episode at most: of a longer one every second, third, ... step is shown
MOST_FRAMES_PER_SECOND = 50.0  # of a gif, whose pictures stay for whole hundredths of a second


def check_path(path: Path) -> None:
    """Refuse a name that is no video's, and an mp4 without what writes it.

    Raises:
        ConfigError: with the command that installs what is missing.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError("--video", path, f"must end in {' or '.join(SUFFIXES)}")
    if path.suffix == ".mp4":
        try:
            import imageio  # noqa: F401
            import imageio_ffmpeg

            imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"{needs_extra('--video', path, 'video')}; a name that ends in .gif needs nothing"
            ) from error


def write_video(path: Path, frames: Iterable[Frame], frames_per_second: float, shown: int) -> list[float]:
    """Write a video; an older one of that name stays until the new one is whole.

    Args:
        path: where, `.mp4` or `.gif`.
        frames: of all episodes.
        frames_per_second: of the environment.
        shown: how many episodes there are.

    Returns:
        The return of every episode.

    Raises:
        UserError: when it cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    returns: list[float] = []
    gif = path.suffix == ".gif"
    images = _noted(frames, shown, returns, GIF_WIDTH if gif else None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # in somebody's folder, it may be a link that leads out of it
        (_write_gif if gif else _write_mp4)(temporary, images, frames_per_second)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or first_line(error)})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return returns


def gif_of(frames: Iterable[Frame], frames_per_second: float) -> tuple[bytes, int, int]:
    """A gif of one episode, its width and its height."""
    file = io.BytesIO()
    width, height = _write_gif(file, _noted(frames, 1, [], GIF_WIDTH), frames_per_second)
    return file.getvalue(), width, height


def _noted(
    frames: Iterable[Frame], shown: int, returns: list[float], most_width: int | None = None
) -> Iterator[tuple[Image.Image, bool]]:
    """Every picture with its line of text, and whether it is the last of its episode; returns are noted on the way."""
    font = ImageFont.load_default(TEXT)
    for frame in frames:
        height, width = frame.picture.shape[:2]
        larger = -(-LEAST_WIDTH // width)
        width, height = width * larger, height * larger
        if most_width is not None and width > most_width:
            width, height = most_width, round(height * most_width / width)
        way = Image.Resampling.NEAREST if width > frame.picture.shape[1] else Image.Resampling.BILINEAR
        picture = Image.fromarray(frame.picture).resize((width, height), way)
        image = Image.new("RGB", (width + width % 2, height + height % 2 + BAR), "white")  # mp4 wants even sizes
        image.paste(picture, (0, BAR))
        text = f"return {rounded(frame.episode_return)}   step {frame.step}"
        text += f"   {frame.ended}" if frame.ended else ""
        text = f"{frame.episode} of {shown}   {text}" if shown > 1 else text
        ImageDraw.Draw(image).text((6, 3), text, fill="black", font=font)
        if frame.ended:
            returns.append(frame.episode_return)
        yield image, bool(frame.ended)


def _write_mp4(path: Path, images: Iterable[tuple[Image.Image, bool]], frames_per_second: float) -> None:
    import imageio

    hold = max(1, round(HOLD_SECONDS * frames_per_second))
    writer: Any
    with imageio.get_writer(path, fps=frames_per_second, macro_block_size=2) as writer:
        for image, last in images:
            for _ in range(hold if last else 1):
                writer.append_data(np.asarray(image))


def _write_gif(
    file: Path | io.BytesIO, images: Iterable[tuple[Image.Image, bool]], frames_per_second: float
) -> tuple[int, int]:
    """Pillow writes it; few colours and few pixels, or it gets large."""
    clips: list[list[Image.Image]] = [[]]
    for image, last in images:
        clips[-1].append(image.quantize(GIF_COLOURS, Image.Quantize.FASTOCTREE))
        if last:
            clips.append([])
    pictures, durations = [], []
    for clip in filter(None, clips):
        stride = -(-len(clip) // GIF_FRAMES)
        chosen = [*clip[:-1:stride], clip[-1]]
        each = 1000 / min(frames_per_second, MOST_FRAMES_PER_SECOND)
        pictures += chosen
        durations += [round(each)] * (len(chosen) - 1) + [round(1000 * HOLD_SECONDS)]
    first, *others = pictures
    first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return first.size
