"""How long the frames of a video take, against what else people decode with.

    python -m benchmarks.decode [--quick] [--out benchmarks/results]

Makes a 1-minute and a 10-minute 720p clip once (kept in the temporary folder), then has every side fetch the same
frames at 336x336 RGB: 8 and 64 uniform ones, one per second, and all. Every picture carries its number in black and
white blocks; a run that returns any other frame than asked for counts as wrong and is not timed. Rounds go through
all sides in turn, so that a busy machine is busy for each. Prints a table; writes decode.json and decode.png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.clips import CLIPS, ENCODERS, FPS, GOP, SIZE, make_clip, read_numbers
from voco_video.frames import Fit
from voco_video.sampling import Sampling
from voco_video.video import open_video

CHUNK = 16
# A side is given the file, the frames' numbers, and yields their pixels [n, SIZE, SIZE, 3] in order.
Side = Callable[[Path, list[int]], Iterator[np.ndarray]]


# --- sides


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
    "voco-video": by_voco_video,
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


# --- measuring


def cpu_seconds() -> float:
    """Processor time of this process, its threads and its finished children."""
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run_once(side: Side, path: Path, frames: list[int], expected: list[int]) -> dict:
    """Wall and processor seconds of one run, or what was wrong with it."""
    wall, cpu, numbers = time.perf_counter(), cpu_seconds(), []
    try:
        for pixels in side(path, frames):
            numbers += read_numbers(pixels)
    except Exception as error:
        return {"wrong": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    if numbers != expected:
        wrong = sum(a != b for a, b in zip(numbers, expected, strict=False)) + abs(len(numbers) - len(expected))
        return {"wrong": f"{wrong} of {len(expected)} frames are not the ones asked for"}
    return {"wall_seconds": wall, "cpu_seconds": cpu}


def measure(path: Path, frames: list[int], expected: list[int], sides: dict[str, Side], repeats: int) -> dict:
    """For each side the median and spread over `repeats` rounds, and its ratio to ours."""
    runs: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            if not any("wrong" in run for run in runs[name]):
                runs[name].append(run_once(side, path, frames, expected))
    results: dict[str, dict] = {}
    for name, side_runs in runs.items():
        wrong = [run["wrong"] for run in side_runs if "wrong" in run]
        results[name] = {"wrong": wrong[0]} if wrong else {}
        for key in () if wrong else ("wall_seconds", "cpu_seconds"):
            values = [run[key] for run in side_runs]
            results[name][key] = statistics.median(values)
            results[name][key + "_range"] = [min(values), max(values)]
    ours = results["voco-video"]
    for result in results.values():
        if "wrong" not in result and "wrong" not in ours:
            result["wall_ratio"] = result["wall_seconds"] / ours["wall_seconds"]
            result["cpu_ratio"] = result["cpu_seconds"] / ours["cpu_seconds"]
    return results


def frame_choices(num_frames: int, *, with_all: bool) -> dict[str, list[int]]:
    """The frames each row asks for."""
    uniform = {f"{n} uniform": [int((i + 0.5) * num_frames / n) for i in range(n)] for n in (8, 64)}
    rows = {**uniform, "1 fps": list(range(0, num_frames, FPS))}
    return {**rows, "all": list(range(num_frames))} if with_all else rows


# --- reporting


def as_table(rows: list[dict], sides: list[str]) -> str:
    """Markdown: wall / processor seconds, and both relative to ours."""
    lines = ["| clip | frames | " + " | ".join(sides) + " |", "|---" * (len(sides) + 2) + "|"]
    for row in rows:
        cells = []
        for name in sides:
            result = row["results"].get(name)
            if result is None:
                cells.append("not run")
            elif "wrong" in result:
                cells.append("wrong: " + result["wrong"])
            else:
                ratio = "" if name == "voco-video" else f" ({result['wall_ratio']:.2f}x / {result['cpu_ratio']:.2f}x)"
                cells.append(f"{result['wall_seconds']:.2f} / {result['cpu_seconds']:.2f}{ratio}")
        lines.append(f"| {row['clip']} | {row['frames']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_plot(rows: list[dict], sides: list[str], path: Path) -> None:
    """Processor and wall seconds as bars, one group per row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(11, 8), constrained_layout=True)
    labels = [f"{row['clip']}\n{row['frames']}" for row in rows]
    for axis, key in zip(axes, ("wall_seconds", "cpu_seconds"), strict=True):
        for place, name in enumerate(sides):
            heights = [row["results"].get(name, {}).get(key, 0) for row in rows]
            x = np.arange(len(rows)) + (place - len(sides) / 2 + 0.5) * 0.8 / len(sides)
            axis.bar(x, heights, 0.8 / len(sides), label=name)
        axis.set_xticks(range(len(rows)), labels, fontsize=8)
        axis.set_yscale("log")
        axis.set_ylabel("wall seconds" if key == "wall_seconds" else "processor seconds")
    axes[0].set_title(f"Same frames at {SIZE}x{SIZE} out of 720p (GOP {GOP}, B-frames); lower is better")
    axes[0].legend(fontsize=8, ncols=len(sides))
    figure.savefig(path, dpi=110)


def machine() -> dict:
    """Where the figures come from."""
    import av

    return {
        "processors": os.cpu_count(),
        "load_average": os.getloadavg(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "av": av.__version__,
    }


def main() -> None:
    """Parse, make the clips, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a 10-second clip and one round, to see that it works")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    parser.add_argument("--codecs", nargs="+", choices=list(ENCODERS), default=["h264"])
    parser.add_argument("--minutes", nargs="+", type=int, choices=[1, 10], default=[1, 10], help="which clips")
    parser.add_argument("--repeats", type=int, default=3, help="rounds over all sides; half as many on the long clip")
    parser.add_argument("--clips", type=Path, default=CLIPS)
    options = parser.parse_args()

    missing = missing_sides()
    sides = {name: side for name, side in SIDES.items() if name not in missing}
    seconds, repeats = (10, 1) if options.quick else (60, options.repeats)
    options.out.mkdir(parents=True, exist_ok=True)
    report_path = options.out / "decode.json"
    # Rows measured before and not now stay as they are.
    earlier = json.loads(report_path.read_text())["rows"] if report_path.exists() else []
    rows = {(row["clip"], row["frames"]): row for row in earlier}
    for codec in options.codecs:
        for times_over in (1,) if options.quick else options.minutes:
            path = make_clip(options.clips, codec, seconds, times_over)
            num_frames = seconds * FPS
            clip = f"{codec} {seconds * times_over // 60} min" if seconds >= 60 else f"{codec} {seconds} s"
            taking_part = sides if times_over == 1 else {k: v for k, v in sides.items() if k != SHORT_ONLY}
            rounds = repeats if times_over == 1 else max(1, repeats // 2)
            for label, frames in frame_choices(num_frames * times_over, with_all=times_over == 1).items():
                row = {"clip": clip, "frames": label, "rounds": rounds, "machine": machine()}
                expected = [frame % num_frames for frame in frames]
                rows[clip, label] = {**row, "results": measure(path, frames, expected, taking_part, rounds)}
                print(as_table([rows[clip, label]], list(SIDES)).splitlines()[-1], flush=True)
                report = {"not_run": missing, "rows": list(rows.values())}
                report_path.write_text(json.dumps(report, indent=1) + "\n")
    draw_plot(list(rows.values()), list(sides), options.out / "decode.png")
    print("\nwall / processor seconds (both relative to ours); on a busy machine the second is the steadier\n")
    print(as_table(list(rows.values()), list(SIDES)))
    for name, reason in missing.items():
        print(f"not run: {name} ({reason})")


if __name__ == "__main__":
    main()
