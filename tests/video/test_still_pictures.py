"""Still pictures, read as videos of one frame: upright, whole, in their own colours."""

import io

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.helpers.still_pictures import SAVING, four_colours, write_grid, write_mjpeg, write_picture
from voco_video.errors import VideoError
from voco_video.video.reading import probe, read_frames
from voco_video.video.scaling import Fit


def difference(pixels, expected):
    assert pixels.shape == expected.shape
    return np.abs(pixels.astype(int) - expected.astype(int)).mean()


def as_pil_turns(picture, orientation):
    """What PIL makes of a picture with that orientation in its EXIF."""
    image = Image.fromarray(picture)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("suffix", SAVING)
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_exif_turns_and_mirrors_pictures_once(tmp_path, suffix, orientation):
    picture = four_colours()
    path = write_picture(tmp_path / f"picture.{suffix}", picture, orientation=orientation)
    expected = as_pil_turns(picture, orientation) if orientation else picture
    pixels = read_frames(path).pixels
    assert len(pixels) == 1
    assert difference(pixels[0], expected) < 3
    assert (probe(path).height, probe(path).width) == expected.shape[:2]
    small = read_frames(path, fit=Fit(24, 24, "stretch")).pixels[0]
    assert difference(small, np.asarray(Image.fromarray(expected).resize((24, 24), Image.Resampling.BOX))) < 6


@pytest.mark.parametrize("container", ["avi", "mov", "mkv"])
@pytest.mark.parametrize("orientation", [6, 7])
def test_exif_in_the_packets_of_mjpeg_counts(tmp_path, container, orientation):
    picture = four_colours()
    jpeg = write_picture(tmp_path / "picture.jpg", picture, orientation=orientation)
    video = write_mjpeg(tmp_path / f"video.{container}", [jpeg] * 5)
    pixels = read_frames(video).pixels
    assert difference(pixels[0], as_pil_turns(picture, orientation)) < 3


def test_orientation_in_an_avif_files_exif_does_not_count_beside_its_own(tmp_path):
    """As the standard says: phones write both, and turning twice would be wrong."""
    picture = four_colours()
    exif = Image.Exif()
    exif[0x0112], exif[0x0111] = 6, 6  # PIL moves the first out of EXIF, and the second is made one below
    memory = io.BytesIO()
    Image.fromarray(picture).save(memory, "AVIF", exif=exif, **SAVING["avif"])
    data = memory.getvalue()
    assert data.count(b"\x01\x11\x00\x04") == 1
    path = tmp_path / "picture.avif"
    path.write_bytes(data.replace(b"\x01\x11\x00\x04", b"\x01\x12\x00\x04"))
    assert difference(read_frames(path).pixels[0], as_pil_turns(picture, 6)) < 3


def tiles_of(picture, tile_height, tile_width):
    """Equal tiles that cover a picture, the last ones going over its edge."""
    height, width = picture.shape[:2]
    rows, columns = -(-height // tile_height), -(-width // tile_width)
    padded = np.pad(picture, ((0, rows * tile_height - height), (0, columns * tile_width - width), (0, 0)), "edge")
    tiles = padded.reshape(rows, tile_height, columns, tile_width, 3).swapaxes(1, 2)
    return [np.ascontiguousarray(tile) for tile in tiles.reshape(-1, tile_height, tile_width, 3)], columns


TURNS = {
    1: b"",
    2: b"\0\0\0\x09imir\x01",
    3: b"\0\0\0\x09irot\x02",
    4: b"\0\0\0\x09imir\x00",
    6: b"\0\0\0\x09irot\x03",
    5: b"\0\0\0\x09irot\x01\0\0\0\x09imir\x00",
    7: b"\0\0\0\x09irot\x03\0\0\0\x09imir\x00",
    8: b"\0\0\0\x09irot\x01",
}
"""By the number that EXIF has for the same."""


@pytest.mark.parametrize("codec", ["av1", "hevc"])
@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_tiles_come_whole(tmp_path, codec, orientation):
    if codec == "hevc" and "libx265" not in av.codecs_available:
        pytest.skip("this build of FFmpeg cannot encode HEVC")
    picture = four_colours(150, 230)
    tiles, columns = tiles_of(picture, 64, 128)
    path = write_grid(
        tmp_path / "grid.heic",
        tiles,
        num_columns=columns,
        size=picture.shape[:2],
        codec=codec,
        turns=TURNS[orientation],
    )
    pixels = read_frames(path).pixels
    assert difference(pixels[0], as_pil_turns(picture, orientation)) < 4
    assert (probe(path).codec, "mp4" in probe(path).container) == (codec, True)


@pytest.mark.parametrize("orientation", TURNS)
def test_tiled_avif_pictures_come_as_pil_reads_them(tmp_path, orientation):
    tiles, columns = tiles_of(four_colours(128, 192), 64, 64)
    path = write_grid(
        tmp_path / "grid.avif", tiles, num_columns=columns, size=(128, 192), codec="av1", turns=TURNS[orientation]
    )
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert difference(read_frames(path).pixels[0], expected) < 2
    assert difference(expected, as_pil_turns(four_colours(128, 192), orientation)) < 4


GRID = b"\0\0\1\2\0\xc0\0\x80"  # two rows and three columns of tiles, 192 x 128 pixels


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"pitm", b"free"), (b"dimg", b"free"), (b"iloc", b"free"), (b"grid", b"iovl"), (GRID, bytes(8)),
     (GRID, b"\0\0\1\2\xff\xff\xff\xff")],
    ids=["no main picture", "no tiles named", "no places", "another kind", "no size", "too large"],
)  # fmt: skip
def test_damaged_tiling_is_one_clear_error(tmp_path, old, new):
    tiles, columns = tiles_of(four_colours(128, 192), 64, 64)
    path = write_grid(tmp_path / "grid.avif", tiles, num_columns=columns, size=(128, 192), codec="av1")
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    with pytest.raises(VideoError, match=r"grid\.avif"):
        read_frames(path)


def test_the_given_pictures_come_upright_and_whole(shared):
    faults = shared / "clips" / "faults"
    turned = read_frames(faults / "exif6.jpg").pixels[0]
    with Image.open(faults / "exif6.jpg") as image:
        assert difference(turned, np.asarray(ImageOps.exif_transpose(image).convert("RGB"))) < 2
    assert read_frames(faults / "camera.jpg").pixels.shape == (1, 96, 160, 3)
    grid = read_frames(faults / "grid.avif").pixels[0]
    assert grid.shape == (256, 512, 3)
    corners = [grid[64, 128], grid[64, 384], grid[192, 128], grid[192, 384]]
    assert len({tuple(corner // 64) for corner in corners}) == 4
