"""HEIC and AVIF pictures that are stored in tiles, which FFmpeg gives one by one: read whole.

Cameras and phones store large pictures so: a `grid` item of 4 x 3 says which other items lie where (ISO/IEC 23008-12).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voco_video.errors import VideoError
from voco_video.video.colours import RgbScaler
from voco_video.video.scaling import MAX_PIXELS

_BRANDS = frozenset({"avif", "heic", "heix", "heim", "heis", "mif1", "mif2"})
_MAX_META_BYTES = 16 << 20
_MAX_TOP_BOXES = 1000


@dataclass(frozen=True)
class Grid:
    """How tiles make up a picture: their item numbers row by row, its size, and what is to be done to it after."""

    item_ids: tuple[int, ...]
    num_rows: int
    num_columns: int
    height: int
    width: int
    turns: tuple[str, ...]


def is_tiled(container: Any) -> bool:
    """Whether an opened file is a HEIC or AVIF picture that is not among its streams, for these are tiles of it."""
    from av.stream import Disposition

    if container.metadata.get("major_brand") not in _BRANDS:
        return False
    return not any(stream.disposition & Disposition.default for stream in container.streams.video)


def whole_picture(path: Path, container: Any) -> io.BytesIO:
    """A tiled picture as a PNG file in memory, upright.

    Raises:
        VideoError: the file is damaged, or a tile does not decode.
    """
    import av

    try:
        pixels = _read_tiles(path, container, read_grid(path))
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        encoder = av.CodecContext.create("png", "w")
        encoder.height, encoder.width, encoder.pix_fmt = picture.height, picture.width, "rgb24"
        encoder.options = {"compression_level": "1"}
        packets = [*encoder.encode(picture), *encoder.encode(None)]
    except (av.error.FFmpegError, MemoryError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "out of memory"
        raise VideoError(f"{path}: the tiles of its picture cannot be read ({reason})") from error
    return io.BytesIO(b"".join(map(bytes, packets)))


def _read_tiles(path: Path, container: Any, grid: Grid) -> npt.NDArray[np.uint8]:
    streams = {stream.id: stream for stream in container.streams.video if stream.codec_context is not None}
    if missing := set(grid.item_ids) - set(streams):
        raise VideoError(f"{path}: {len(missing)} of the {len(grid.item_ids)} tiles of its picture are not there")
    numbers_of: dict[int, list[int]] = {}
    for number, item_id in enumerate(grid.item_ids):
        numbers_of.setdefault(streams[item_id].index, []).append(number)
    pixels = np.zeros((grid.height, grid.width, 3), np.uint8)
    scaler, waiting, tile_size = RgbScaler(str(path)), dict(numbers_of), (0, 0)
    for stream in streams.values():
        stream.codec_context.thread_count = 1
    for packet in container.demux(*(streams[item_id] for item_id in set(grid.item_ids))):
        if not packet.size or packet.stream.index not in waiting:
            continue
        decoder = packet.stream.codec_context
        for frame in [*decoder.decode(packet), *decoder.decode(None)][:1]:
            tile_size = tile_size if any(tile_size) else (frame.height, frame.width)
            _check_tile(path, grid, tile_size, frame)
            for number in waiting.pop(packet.stream.index):
                row, column = divmod(number, grid.num_columns)
                room = pixels[row * tile_size[0] :, column * tile_size[1] :][: frame.height, : frame.width]
                for channels, tile in scaler.scale(frame, frame.height, frame.width):
                    room[..., channels] = tile[: room.shape[0], : room.shape[1]]
    if waiting:
        raise VideoError(f"{path}: {len(waiting)} of the {len(grid.item_ids)} tiles of its picture do not decode")
    for turn in grid.turns:
        pixels = _TURNS[turn](pixels)
    return pixels


def _check_tile(path: Path, grid: Grid, tile_size: tuple[int, int], frame: Any) -> None:
    covers = tile_size[0] * grid.num_rows >= grid.height and tile_size[1] * grid.num_columns >= grid.width
    if not covers or (frame.height, frame.width) != tile_size:
        raise VideoError(
            f"{path}: tiles of {frame.width}x{frame.height} pixels do not make up its picture of "
            f"{grid.width}x{grid.height} ({grid.num_columns} x {grid.num_rows} tiles)"
        )


_TURNS: dict[str, Any] = {
    "quarter": lambda pixels: np.rot90(pixels, 1),  # anticlockwise
    "half": lambda pixels: np.rot90(pixels, 2),
    "three quarters": lambda pixels: np.rot90(pixels, 3),
    "top to bottom": lambda pixels: pixels[::-1],
    "left to right": lambda pixels: pixels[:, ::-1],
}


def read_grid(path: Path) -> Grid:
    """What a HEIC or AVIF file says of its main picture. Raises VideoError when that is no grid, or it is damaged."""
    try:
        with path.open("rb") as file:
            meta = _meta_box(file)
            boxes = dict(_boxes(meta[4:]))
            item_id = _number(boxes[b"pitm"][4:], 4 if boxes[b"pitm"][0] else 2)
            if (kind := _item_kind(boxes[b"iinf"], item_id)) != b"grid":
                raise ValueError(f"it is of kind {kind.decode('ascii', 'replace')!r}, not a grid")
            tiles = _references(boxes[b"iref"]).get((b"dimg", item_id), ())
            payload = _payload(file, boxes, item_id)
            turns = _turns(boxes[b"iprp"], item_id)
        wide = payload[1] & 1
        height_at, length = (8, 4) if wide else (6, 2)
        num_rows, num_columns = payload[2] + 1, payload[3] + 1
        width, height = _number(payload[4:], length), _number(payload[height_at:], length)
        if len(tiles) != num_rows * num_columns or not 0 < height * width <= MAX_PIXELS:
            raise ValueError(f"{width}x{height} pixels of {num_columns} x {num_rows} tiles, {len(tiles)} are named")
    except (KeyError, IndexError, struct.error, ValueError) as error:
        reason = f"it has no box {error}" if isinstance(error, KeyError) else str(error)
        raise VideoError(f"{path}: how the tiles of its picture lie cannot be read ({reason})") from error
    return Grid(tiles, num_rows, num_columns, height, width, turns)


def _meta_box(file: Any) -> bytes:
    for _ in range(_MAX_TOP_BOXES):
        header = file.read(8)
        if len(header) < 8:
            break
        size, kind = struct.unpack(">I4s", header)
        num_read = 8
        if size == 1:
            size, num_read = _number(file.read(8), 8), 16
        if kind == b"meta":
            if not num_read <= size <= _MAX_META_BYTES:
                raise ValueError(f"a list of items of {size} bytes")
            return file.read(size - num_read)
        if size < num_read:
            break
        file.seek(size - num_read, io.SEEK_CUR)
    raise ValueError("no list of items")


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = 0
    while start + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            size, head = _number(data[start + 8 :], 8), 16
        elif size == 0:
            size = len(data) - start
        if size < head:
            raise ValueError(f"a box of {size} bytes")
        yield kind, data[start + head : start + size]
        start += size


def _number(data: bytes, length: int) -> int:
    if len(data) < length:
        raise ValueError("it ends too early")
    return int.from_bytes(data[:length], "big")


def _item_kind(iinf: bytes, item_id: int) -> bytes:
    for _, body in _boxes(iinf[4 + (4 if iinf[0] else 2) :]):
        length = 4 if body[0] == 3 else 2
        if _number(body[4:], length) == item_id:
            return body[6 + length : 10 + length]
    raise ValueError(f"item {item_id} is nowhere")


def _references(iref: bytes) -> dict[tuple[bytes, int], tuple[int, ...]]:
    """Item numbers that an item refers to, by kind of reference and item."""
    length = 4 if iref[0] else 2
    found = {}
    for kind, body in _boxes(iref[4:]):
        count = _number(body[length:], 2)
        ids = tuple(_number(body[length + 2 + i * length :], length) for i in range(count))
        found[kind, _number(body, length)] = ids
    return found


def _payload(file: Any, boxes: dict[bytes, bytes], item_id: int) -> bytes:
    """The bytes of an item, of which a grid has 8 or 12."""
    reader = io.BytesIO(boxes[b"iloc"])

    def number(length: int) -> int:
        return _number(reader.read(length), length)

    version = number(1)
    number(3)
    sizes = number(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    id_size = 4 if version == 2 else 2
    for _ in range(number(id_size)):
        found = number(id_size)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(base_size)
        extents = []
        for _ in range(number(2)):
            if version and index_size:
                number(index_size)
            extents.append((base + number(offset_size), number(length_size)))
        if found == item_id:
            start, length = extents[0]
            if method == 1:
                return boxes[b"idat"][start : start + length]
            file.seek(start)
            return bytes(file.read(min(length, 12)))
    raise ValueError(f"item {item_id} is nowhere")


def _turns(iprp: bytes, item_id: int) -> tuple[str, ...]:
    """An item's rotations and mirrorings, in the order in which they are to be done."""
    parts = dict(_boxes(iprp))
    properties = list(_boxes(parts[b"ipco"]))
    reader = io.BytesIO(parts[b"ipma"])
    version, flags = reader.read(1)[0], reader.read(3)[2]
    turns: list[str] = []
    for _ in range(_number(reader.read(4), 4)):
        found = _number(reader.read(4 if version else 2), 4 if version else 2)
        for _ in range(_number(reader.read(1), 1)):
            index = _number(reader.read(2), 2) & 0x7FFF if flags & 1 else _number(reader.read(1), 1) & 0x7F
            if found != item_id or not 0 < index <= len(properties):
                continue
            kind, body = properties[index - 1]
            if kind == b"irot" and body[0] & 3:
                turns.append(("quarter", "half", "three quarters")[(body[0] & 3) - 1])
            elif kind == b"imir":
                turns.append("left to right" if body[0] & 1 else "top to bottom")
    return tuple(turns)
