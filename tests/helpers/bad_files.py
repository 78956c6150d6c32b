"""Files that are no videos or pictures, of every kind that somebody might have in a folder of them."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.helpers.clips import Clip, truncate


def write_bad_files(folder: Path) -> dict[str, Path]:
    """One of each kind, by what it is; all are named like videos, and none can be read."""
    folder.mkdir(parents=True, exist_ok=True)
    bad = {name: folder / f"{name.replace(' ', '-')}.mp4" for name in _WRITERS}
    for name, write in _WRITERS.items():
        write(bad[name])
    bad["not there"] = folder / "not-there.mp4"
    bad["name too long"] = folder / f"{'long' * 100}.mp4"
    if os.geteuid() != 0:  # who may read everything
        bad["no permission"] = Clip("no-permission.mp4", num_frames=2).write(folder)
        bad["no permission"].chmod(0)
    return bad


def _truncated(path: Path) -> None:
    whole = Clip("whole.mp4", num_frames=5).write(path.parent)
    truncate(whole, path, 0.5)  # what says where everything lies is at the end
    whole.unlink()


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"\0\0\0\x18ftypisom")
        file.truncate(1 << 40)


def _audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for number in range(10):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.rate, sound.pts = 16000, number * 1024
            container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def _cover(path: Path) -> None:
    """Music with a picture of its cover: an ID3 tag before MPEG audio."""
    memory, sound = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(memory, "JPEG")
    picture = b"\0image/jpeg\0\x03\0" + memory.getvalue()
    frame = b"APIC" + struct.pack(">I", len(picture)) + b"\0\0" + picture
    size = len(frame)
    tag = b"ID3\x03\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + frame
    with av.open(sound, "w", format="mp2") as container:
        stream = container.add_stream("mp2", rate=44100, layout="mono")
        for number in range(10):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            silence.rate, silence.pts = 44100, number * 1152
            container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    path.write_bytes(tag + sound.getvalue())


_WRITERS = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("This is not a video.\n" * 200),
    "page": lambda path: path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "zip": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 20),
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(50_000)),
    "zeros": lambda path: path.write_bytes(bytes(100_000)),
    "truncated": _truncated,
    "folder": lambda path: path.mkdir(),
    "named pipe": lambda path: os.mkfifo(path),
    "sparse": _sparse,
    "loop of links": lambda path: path.symlink_to(path.name),
    "dead link": lambda path: path.symlink_to("nowhere.mp4"),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "audio alone": _audio,
    "cover alone": _cover,
    "pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"),
}
