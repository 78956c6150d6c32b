"""How long the frames of a video take, against what else people decode with.

    python -m benchmarks.speed.decode [--quick | --full]
    python -m benchmarks.speed.decode --codecs vp9 --seconds 600 --choices "1 fps" --merge     (the table in parts)

Makes 720p clips of 10 seconds and 1 minute once (kept in the temporary folder) in three codecs, then has every side
fetch the same frames at 336x336 RGB: 8 and 64 uniform ones and one per second. `--full` takes 10-minute clips too, and
every frame of the others. Every picture carries its number in black and white blocks; a side that returns any other
frame than asked for counts as wrong, and its time is not given; ours has to be right. Rounds go through all sides in
turn, so that a busy machine is busy for each.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.clips import CLIPS, FPS, GOP, SIZE, make_clip, read_numbers
from benchmarks.errors import MismatchError
from benchmarks.report import Benchmark, Report, option, table
from benchmarks.timing import Timing, joined, time_once
from voco_video.options.sampling import Sampling
from voco_video.video.reading import open_video
from voco_video.video.scaling import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OURS = "voco-video"
CHUNK = 16
MINUTE = 60  # the longest clip that is encoded
TICKS = (1, 1.5, 2, 3, 5, 10, 20)  # of the plot
REASON_LENGTH = 60  # in the table; the report has it whole
# A side is given the file, the frames' numbers, and yields their pixels [n, SIZE, SIZE, 3] in order.
Side = Callable[[Path, list[int]], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    codecs: tuple[str, ...] = option(("h264", "hevc", "vp9"), "of the clips")
    seconds: tuple[int, ...] = option((10, 60), "of the clips; over 60 whole minutes, which repeat the first")
    choices: tuple[str, ...] = option(
        ("8 uniform", "64 uniform", "1 fps"), "frames asked for; 'all' for every one, of clips up to a minute"
    )
    repeats: int = option(3, "rounds over all sides")
    max_seconds: float = option(30.0, "for a row no round begins after this long")


QUICK = Settings(seconds=(10,), repeats=1)
FULL = Settings(seconds=(10, 60, 600), choices=("8 uniform", "64 uniform", "1 fps", "all"), max_seconds=120.0)


# ---------------------------------------------------------------------- sides


def by_voco_video(path: Path, frames: list[int]) -> Iterator[np.ndarray]:
    """This package, as its users call it."""
    times = tuple((frame + 0.25) / FPS for frame in frames)
    with open_video(path) as video:
        for batch in video.batches(Sampling(timestamps=times), fit=Fit(SIZE, SIZE, "stretch"), batch_size=CHUNK):
            yield batch.pixels


def by_decord(path: Path, frames: list[int]) -> Iterator[np.ndarray]:
    """decord, which scales as it decodes."""
    import decord

    reader = decord.VideoReader(str(path), width=SIZE, height=SIZE)
    for start in range(0, len(frames), CHUNK):
        yield reader.get_batch(frames[start : start + CHUNK]).asnumpy()


def by_torchcodec(path: Path, frames: list[int]) -> Iterator[np.ndarray]:
    """torchcodec, which scales as it decodes (bilinear; the others bicubic)."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=0, transforms=[Resize((SIZE, SIZE))])
    if frames == list(range(len(decoder))):  # iterating takes half the time of its methods for indices or ranges
        for frame in decoder:
            yield frame.numpy()[None]
        return
    for start in range(0, len(frames), CHUNK):
        yield decoder.get_frames_at(frames[start : start + CHUNK]).data.numpy()


def by_plain_pyav(path: Path, frames: list[int]) -> Iterator[np.ndarray]:
    """The loop of PyAV's own documentation: decode everything in threads, keep what is wanted."""
    import av
    from av.video.reformatter import Interpolation, VideoReformatter

    wanted, scaler = set(frames), VideoReformatter()
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                scaled = scaler.reformat(frame, SIZE, SIZE, "rgb24", interpolation=Interpolation.BICUBIC)
                yield scaled.to_ndarray()[None]
            if number == frames[-1]:
                break


def by_opencv(path: Path, frames: list[int]) -> Iterator[np.ndarray]:
    """OpenCV, seeking where the frames are further apart than keyframes, else grabbing through."""
    import cv2

    capture, position = cv2.VideoCapture(str(path)), 0
    seeks = len(frames) > 1 and frames[1] - frames[0] > GOP
    for frame in frames:
        if seeks:
            capture.set(cv2.CAP_PROP_POS_FRAMES, frame)
        else:
            for _ in range(frame - position):
                capture.grab()
        _, picture = capture.read()
        position = frame + 1
        small = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        yield cv2.cvtColor(small, cv2.COLOR_BGR2RGB)[None]


def by_ffmpeg(path: Path, frames: list[int]) -> Iterator[np.ndarray]:
    """The ffmpeg program: one pass, a select filter, raw pictures through a pipe."""
    steps = set(np.diff(frames).tolist())
    if steps == {1}:
        chosen = ""
    elif len(steps) == 1:
        chosen = f"select=not(mod(n-{frames[0]}\\,{steps.pop()})),"
    else:
        chosen = "select=" + "+".join(f"eq(n\\,{frame})" for frame in frames) + ","
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-vf", f"{chosen}scale={SIZE}:{SIZE}:flags=bicubic"]
    command += ["-vsync", "0", "-frames:v", str(len(frames)), "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    size_bytes = SIZE * SIZE * 3
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=size_bytes) as process:
        while picture := process.stdout.read(size_bytes):
            yield np.frombuffer(picture, np.uint8).reshape(1, SIZE, SIZE, 3)


SIDES: dict[str, Side] = {
    OURS: by_voco_video,
    "decord": by_decord,
    "torchcodec": by_torchcodec,
    "PyAV, plain": by_plain_pyav,
    "OpenCV": by_opencv,
    "ffmpeg": by_ffmpeg,
}
# It decodes everything as ffmpeg does; ten minutes of that need not be waited for twice.
SHORT_ONLY = "PyAV, plain"


def missing_sides() -> dict[str, str]:
    """Name of each side that cannot run here, with the reason."""
    modules = {"decord": "decord", "torchcodec": "torchcodec", "OpenCV": "cv2"}
    missing = {}
    for name, module in modules.items():
        try:
            __import__(module)
        except (ImportError, OSError, RuntimeError) as error:
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    if not shutil.which("ffmpeg"):
        missing["ffmpeg"] = "the ffmpeg program is not installed"
    return missing


# ---------------------------------------------------------------------- measuring


def measure(settings: Settings) -> Report:
    """A row for every codec, duration and choice of frames."""
    clips = list(itertools.product(settings.codecs, settings.seconds))
    # Made before the sides are imported: each brings an FFmpeg of its own, beside which encoding VP9 fails.
    paths = [make_clip(CLIPS, codec, min(seconds, MINUTE), max(1, seconds // MINUTE)) for codec, seconds in clips]
    missing = missing_sides()
    sides = {name: side for name, side in SIDES.items() if name not in missing}
    rows = []
    for (codec, seconds), path in zip(clips, paths, strict=True):
        once, is_short = min(seconds, MINUTE), seconds <= MINUTE
        taking_part = {name: side for name, side in sides.items() if is_short or name != SHORT_ONLY}
        for choice, frames in frame_choices(seconds // once * once * FPS, settings.choices).items():
            if choice == "all" and not is_short:
                continue
            expected = [frame % (once * FPS) for frame in frames]
            results = measure_row(path, frames, expected, taking_part, settings)
            row = {"codec": codec, "seconds": seconds // once * once, "frames": choice}
            rows.append(row | {"results": results})
    return {"not_run": missing, "rows": rows}


def merge(before: Report, now: Report) -> Report:
    """The rows of both reports in the order of the full table, those measured now in place of earlier ones."""
    rows = {_place(row): row for row in before["rows"] + now["rows"]}
    return now | {"rows": [rows[place] for place in sorted(rows)]}


def _place(row: Report) -> tuple[int, ...]:
    return FULL.codecs.index(row["codec"]), row["seconds"], FULL.choices.index(row["frames"])


def measure_row(
    path: Path, frames: list[int], expected: list[int], sides: Mapping[str, Side], settings: Settings
) -> Report:
    """For each side its times and their ratios to ours, or what was wrong with it.

    Raises:
        MismatchError: ours is wrong.
    """
    runs: dict[str, list[Timing]] = {name: [] for name in sides}
    wrong: dict[str, str] = {}
    names, started = list(sides), time.perf_counter()
    for number in range(settings.repeats):
        if number and time.perf_counter() - started > settings.max_seconds:
            break
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if name in wrong:
                continue
            try:
                runs[name].append(run_once(sides[name], path, frames, expected))
            except Exception as error:  # whatever another library raises, the others go on
                if name == OURS:
                    raise
                wrong[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    timings = {name: joined(found) for name, found in runs.items() if name not in wrong}
    ours = timings[OURS]
    results: Report = {name: {"wrong": reason} for name, reason in wrong.items()}
    for name, timing in timings.items():
        results[name] = timing.as_json() | {
            "wall_ratio": timing.wall_seconds / ours.wall_seconds,
            "cpu_ratio": timing.cpu_seconds / ours.cpu_seconds,
        }
    return results


def run_once(side: Side, path: Path, frames: list[int], expected: list[int]) -> Timing:
    """Time one run.

    Raises:
        MismatchError: a picture is not the one asked for.
    """
    numbers: list[int] = []

    def run() -> None:
        for pixels in side(path, frames):
            numbers.extend(read_numbers(pixels))

    timing = time_once(run)
    if numbers != expected:
        wrong = sum(a != b for a, b in zip(numbers, expected, strict=False)) + abs(len(numbers) - len(expected))
        raise MismatchError(f"{wrong} of {len(expected)} frames are not the ones asked for")
    return timing


def frame_choices(num_frames: int, choices: Sequence[str]) -> dict[str, list[int]]:
    """The frames that each choice asks for."""
    uniform = {f"{n} uniform": [int((i + 0.5) * num_frames / n) for i in range(n)] for n in (8, 64)}
    known = {**uniform, "1 fps": list(range(0, num_frames, FPS)), "all": list(range(num_frames))}
    return {choice: known[choice] for choice in choices}


# ---------------------------------------------------------------------- report


def ratios(report: Report) -> dict[str, float]:
    """Processor seconds of every other side over ours."""
    return {
        f"{clip_name(row)}, {row['frames']}: {name} over ours": side["cpu_ratio"]
        for row in report["rows"]
        for name, side in row["results"].items()
        if name != OURS and "wrong" not in side
    }


def clip_name(row: Report) -> str:
    """Codec and duration."""
    seconds = row["seconds"]
    return f"{row['codec']} {f'{seconds // 60} min' if seconds >= 60 else f'{seconds} s'}"


def markdown(report: Report) -> str:
    """Wall / processor seconds, and both relative to ours."""
    rows = []
    for row in report["rows"]:
        cells = [_cell(name, row["results"].get(name)) for name in SIDES]
        rows.append([clip_name(row), row["frames"], row["results"][OURS]["num_runs"], *cells])
    heading = (
        f"Same frames at {SIZE}x{SIZE} out of 720p (GOP {GOP}, B-frames). Wall / processor seconds, and both relative "
        "to ours; on a busy machine the second is the steadier."
    )
    not_run = [f"Not run: {name} ({reason})." for name, reason in report["not_run"].items()]
    return "\n\n".join(["# Decoding", heading, table(["clip", "frames", "runs", *SIDES], rows), *not_run])


def _cell(name: str, result: Report | None) -> str:
    if result is None:
        return "not run"
    if "wrong" in result:
        return f"wrong: {result['wrong'][:REASON_LENGTH]}"
    ratio = "" if name == OURS else f" ({result['wall_ratio']:.2f}x / {result['cpu_ratio']:.2f}x)"
    return f"{result['wall_seconds']:.2f} / {result['cpu_seconds']:.2f}{ratio}"


def draw(report: Report, figure: Figure) -> None:
    """A line for each row: how many times as long as ours the others take, on the clock and of the processor."""
    rows = report["rows"][::-1]
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, kind in ((left, "wall"), (right, "cpu")):
        for name in SIDES:
            times_ours = [row["results"].get(name, {}).get(f"{kind}_ratio", np.nan) for row in rows]  # nan: no point
            axes.scatter(times_ours, range(len(rows)), s=28, label=name, zorder=2)
        axes.set_xscale("log")
        axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.minorticks_off()
        axes.grid(alpha=0.4)
        axes.set_xlabel("clock" if kind == "wall" else "processor")
    left.set_yticks(range(len(rows)), [f"{clip_name(row)}, {row['frames']}" for row in rows], fontsize=8)
    left.set_ylim(-0.6, len(rows) - 0.4)
    right.legend(fontsize=8, loc="upper right")
    figure.suptitle(f"time over {OURS}'s, the same frames")


BENCHMARK = Benchmark(
    name="decode",
    about=__doc__ or "",
    default=Settings(),
    quick=QUICK,
    full=FULL,
    measure=measure,
    merge=merge,
    markdown=markdown,
    draw=draw,
    ratios=ratios,
    size=(11, 7.5),
)

if __name__ == "__main__":
    BENCHMARK.main()
