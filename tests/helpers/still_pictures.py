"""Still pictures made at test time: with EXIF, and HEIC and AVIF files in tiles, which no library here writes."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

SAVING = {
    "jpg": {"quality": 95, "subsampling": 0},
    "png": {},
    "webp": {"lossless": True},
    "tiff": {},
    "avif": {"quality": 95, "subsampling": "4:4:4"},
}


def four_colours(height: int = 48, width: int = 80) -> np.ndarray:
    """A picture [height, width, 3] that looks another way in each of the eight ways to turn and mirror it."""
    picture = np.zeros((height, width, 3), np.uint8)
    half_y, half_x = height // 2, width // 2
    picture[:half_y, :half_x] = (220, 30, 30)
    picture[:half_y, half_x:] = (30, 200, 30)
    picture[half_y:, :half_x] = (30, 30, 220)
    picture[half_y:, half_x:] = (200, 200, 200)
    return picture


def write_picture(path: Path, picture: np.ndarray, *, orientation: int | None = None) -> Path:
    """Write a still picture, as its suffix says, with EXIF where there is an orientation."""
    options = dict(SAVING[path.suffix[1:]])
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112], exif[0x010F] = orientation, "Canon"
        options["exif"] = exif
    Image.fromarray(picture).save(path, **options)
    return path


def write_mjpeg(path: Path, pictures: list[Path]) -> Path:
    """A video whose packets are these JPEG files as they are, at 5 pictures a second."""
    with Image.open(pictures[0]) as first:
        size = first.size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = *size, "yuvj444p"
        for number, picture in enumerate(pictures):
            packet = av.Packet(picture.read_bytes())
            packet.stream, packet.pts, packet.dts, packet.duration = stream, number, number, 1
            packet.time_base, packet.is_keyframe = Fraction(1, 5), True
            container.mux(packet)
    return path


def write_grid(
    path: Path, tiles: list[np.ndarray], *, num_columns: int, size: tuple[int, int], codec: str, turns: bytes = b""
) -> Path:
    """A HEIC or AVIF file whose picture of `size` (height, width) is cut out of equally large tiles, row by row.

    codec:  "av1" or "hevc"
    turns:  whole boxes of the picture, such as `irot`
    """
    encoded = [_encoded(tile, codec) for tile in tiles]
    tile_height, tile_width = tiles[0].shape[:2]
    count = len(tiles)
    num_rows = count // num_columns
    kind, config_kind = (b"av01", b"av1C") if codec == "av1" else (b"hvc1", b"hvcC")
    colours = _box(b"colr", b"nclx" + struct.pack(">HHHB", 1, 13, 6, 0x80 if codec == "av1" else 0))
    properties = [
        _box(b"ispe", bytes(4) + struct.pack(">II", size[1], size[0])),
        _box(b"ispe", bytes(4) + struct.pack(">II", tile_width, tile_height)),
        _box(config_kind, encoded[0][0]),
        colours,
    ]
    of_grid, of_tile = [1, 4], [2, 3 | 0x80, 4]
    start = 0
    while start < len(turns):
        length = struct.unpack_from(">I", turns, start)[0]
        properties.append(turns[start : start + length])
        of_grid.append(len(properties) | 0x80)  # essential: readers that do not know it have to give up
        start += length
    associations = [bytes([0, 1, len(of_grid), *of_grid])]
    associations += [struct.pack(">H", 2 + number) + bytes([len(of_tile), *of_tile]) for number in range(count)]
    ipma = _box(b"ipma", bytes(4) + struct.pack(">I", 1 + count) + b"".join(associations))
    infos = [_box(b"infe", b"\2\0\0\0" + struct.pack(">HH4s", 1, 0, b"grid") + b"\0")]
    infos += [_box(b"infe", b"\2\0\0\0" + struct.pack(">HH4s", 2 + n, 0, kind) + b"\0") for n in range(count)]
    references = struct.pack(">HH", 1, count) + b"".join(struct.pack(">H", 2 + number) for number in range(count))
    grid = bytes([0, 0, num_rows - 1, num_columns - 1]) + struct.pack(">HH", size[1], size[0])
    payloads = [grid, *(payload for _, payload in encoded)]

    def meta(first_byte: int) -> bytes:
        places, offset = [], first_byte
        for number, payload in enumerate(payloads):
            places.append(struct.pack(">HHHII", 1 + number, 0, 1, offset, len(payload)))
            offset += len(payload)
        return _box(
            b"meta",
            bytes(4)
            + _box(b"hdlr", bytes(8) + b"pict" + bytes(13))
            + _box(b"pitm", bytes(4) + struct.pack(">H", 1))
            + _box(b"iloc", bytes(4) + b"\x44\0" + struct.pack(">H", 1 + count) + b"".join(places))
            + _box(b"iinf", bytes(4) + struct.pack(">H", 1 + count) + b"".join(infos))
            + _box(b"iref", bytes(4) + _box(b"dimg", references))
            + _box(b"iprp", _box(b"ipco", b"".join(properties)) + ipma),
        )

    brand = b"avif" if codec == "av1" else b"heic"
    head = _box(b"ftyp", brand + bytes(4) + brand + b"mif1miaf")
    path.write_bytes(head + meta(len(head) + len(meta(0)) + 8) + _box(b"mdat", b"".join(payloads)))
    return path


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _encoded(tile: np.ndarray, codec: str) -> tuple[bytes, bytes]:
    """A tile's decoder configuration and its coded picture, cut out of a file that holds nothing else."""
    memory = io.BytesIO()
    if codec == "av1":
        Image.fromarray(tile).save(memory, "AVIF", quality=95, subsampling="4:4:4")
        config = b"av1C"
    else:
        with av.open(memory, "w", format="mp4") as container:
            options = {"x265-params": "log-level=none:pools=none:frame-threads=1", "crf": "4", "preset": "ultrafast"}
            stream = container.add_stream("libx265", rate=1, options=options)
            stream.height, stream.width, stream.pix_fmt = *tile.shape[:2], "yuv444p"
            frame = av.VideoFrame.from_ndarray(tile, format="rgb24")
            frame.pts, frame.time_base = 0, Fraction(1)
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                packet.dts = packet.pts  # x265 leaves it to chance where there is but one picture
                container.mux(packet)
        config = b"hvcC"
    data = memory.getvalue()
    return _content(data, config), _content(data, b"mdat")


def _content(data: bytes, kind: bytes) -> bytes:
    start = data.index(kind)
    length = struct.unpack_from(">I", data, start - 4)[0]
    return data[start + 4 : start - 4 + length]
