"""Pictures in memory are sampled, scaled and named as the frames of a file with the same pictures are."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.clips import CLIPS, Clip, draw, read_numbers
from tests.helpers.still_pictures import four_colours, write_picture
from voco_video import Fit, Pictures, Sampling, open_video, probe, read_frames
from voco_video.errors import UsageError, VideoError

EVERY_FRAME = Sampling(fps=1000)
SAMPLINGS = [
    Sampling(fps=3),
    Sampling(num_frames=7),
    Sampling(timestamps=(0.05, 0.1, 0.1, 1.1)),
    Sampling(fps=8, start_seconds=0.3, end_seconds=1.0),
]
FITS = [Fit(64, 64), Fit(64, 96, "pad", pad_rgb=(1, 2, 3)), Fit(50, 70, "stretch"), None]
LOSSLESS = Clip("rgb.mov", codec="png", pixel_format="rgb24", num_frames=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("clips")


def pictures_of(path: Path, **options) -> Pictures:
    """All frames of a file as they are displayed."""
    frames = read_frames(path, EVERY_FRAME, **options)
    with open_video(path) as video:
        assert np.array_equal(frames.pts_seconds, video.pts_seconds)
    return Pictures(frames.pixels, pts_seconds=frames.pts_seconds)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("fit", FITS, ids=str)
def test_the_frames_of_an_rgb_file_give_what_the_file_gives(folder, sampling, fit):
    path = LOSSLESS.write(folder)
    of_file, of_pictures = (read_frames(video, sampling, fit=fit) for video in (path, pictures_of(path)))
    assert np.array_equal(of_file.pts_seconds, of_pictures.pts_seconds)
    assert np.array_equal(of_file.pixels, of_pictures.pixels)


@pytest.mark.parametrize("name", ["h264_bframes.mp4", "h264_late.mp4", "h264_vfr.mkv", "vp9_altref.webm"])
def test_the_frames_of_any_file_give_what_decoders_give_that_make_rgb_first(folder, name):
    """FFmpeg's scaler goes from a file's own colours to RGB of the final size in one step, which no RGB can repeat."""
    path = CLIPS[name].write(folder)
    pictures = pictures_of(path, backend="torchcodec")
    for sampling in (Sampling(fps=5), Sampling(num_frames=4)):
        of_file = read_frames(path, sampling, fit=FITS[0], backend="torchcodec")
        of_pictures = read_frames(pictures, sampling, fit=FITS[0])
        assert np.array_equal(of_file.pts_seconds, of_pictures.pts_seconds)
        assert np.array_equal(of_file.pixels, of_pictures.pixels)


def test_a_file_of_the_final_size_gives_what_its_frames_give(folder):
    path = Clip("small.mp4", num_frames=30, height=64, width=64).write(folder)
    of_file, of_pictures = (read_frames(video, Sampling(fps=5), fit=FITS[0]) for video in (path, pictures_of(path)))
    assert np.array_equal(of_file.pixels, of_pictures.pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "I;16", "P", "1"])
@pytest.mark.parametrize("fit", [None, Fit(40, 60, "pad")], ids=str)
def test_pil_images_give_what_their_files_give(tmp_path, mode, fit):
    picture = draw(5, 48, 80)
    if mode == "I;16":
        image = Image.fromarray((picture.sum(-1) * 85).astype(np.uint16))
    elif mode in ("RGBA", "LA"):
        image = Image.fromarray(np.dstack([picture, picture[..., 0]])).convert(mode)
    else:
        image = Image.fromarray(picture).convert(mode)
    assert image.mode == mode
    image.save(tmp_path / "image.png")
    of_file, of_image = (
        read_frames(video, Sampling(num_frames=1), fit=fit).pixels
        for video in (tmp_path / "image.png", Pictures([image], fps=1))
    )
    if fit is not None and mode in ("P", "1"):  # FFmpeg scales those more coarsely than RGB
        difference = np.abs(of_file.astype(int) - of_image)
        assert difference.mean() < (12 if mode == "1" else 1)
    else:
        assert np.array_equal(of_file, of_image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pil_images_are_turned_upright(tmp_path, orientation):
    path = write_picture(tmp_path / "photo.png", four_colours(), orientation=orientation)
    with Image.open(path) as image:
        of_file, of_image = (
            read_frames(video, Sampling(num_frames=1)).pixels for video in (path, Pictures([image], fps=1))
        )
    assert np.array_equal(of_file, of_image)


def test_pictures_of_several_sizes_are_each_fitted_by_themselves():
    sizes = [(96, 160), (160, 96), (48, 48)]
    pictures = Pictures([Image.fromarray(draw(n, *size)) for n, size in enumerate(sizes)], pts_seconds=[1, 2.5, 3])
    frames = read_frames(pictures, Sampling(timestamps=(1, 2.5, 3)), fit=Fit(96, 96, "stretch"))
    assert read_numbers(frames.pixels) == [0, 1, 2]
    assert frames.pts_seconds.tolist() == [1, 2.5, 3]
    alone = Pictures([draw(1, 160, 96)], fps=1)
    for fit in (Fit(64, 64), Fit(64, 64, "pad")):
        together = read_frames(pictures, EVERY_FRAME, fit=fit).pixels[1]
        assert np.array_equal(together, read_frames(alone, EVERY_FRAME, fit=fit).pixels[0])


def test_times_are_exactly_those_given_and_facts_are_true():
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 2, 20)) - 3
    pictures = Pictures(np.stack([draw(n) for n in range(20)]), pts_seconds=times, name="camera 7")
    frames = read_frames(pictures, EVERY_FRAME)
    assert np.array_equal(frames.pts_seconds, times)
    info = probe(pictures)
    assert (info.path, info.width, info.height, info.num_frames) == ("camera 7", 160, 96, 20)
    assert info.end_seconds == times[-1] + (times[-1] - times[-2])
    rate = Fraction(30000, 1001)
    assert Pictures(np.zeros((3, 8, 8, 3), np.uint8), fps=rate).pts_seconds.tolist() == [0, 1001 / 30000, 2002 / 30000]
    with open_video(pictures) as video:
        assert len(video.plan(Sampling(keyframes=True))) == 20
        batches = list(video.batches(Sampling(num_frames=10), batch_size=4, first_frame=3))
        assert [len(batch) for batch in batches] == [4, 3]


def test_equal_pictures_have_equal_digests_and_any_other_another():
    pixels = np.stack([draw(n, 40, 64) for n in range(4)])
    first = Pictures(pixels, fps=2)
    images = [Image.fromarray(picture) for picture in pixels]
    same = [
        Pictures(images, fps=2),
        Pictures(list(pixels), pts_seconds=[0, 0.5, 1, 1.5]),
        Pictures(torch.from_numpy(pixels), fps=2, name="another name"),
        Pictures(np.asfortranarray(pixels), fps=Fraction(2)),
        Pictures(tuple(images), pts_seconds=torch.arange(4) / 2),
    ]
    assert {pictures.digest() for pictures in same} == {first.digest()}
    changed = pixels.copy()
    changed[3, 39, 63, 2] ^= 1
    other = [
        Pictures(changed, fps=2),
        Pictures(pixels, fps=3),
        Pictures(pixels[:3], fps=2),
        Pictures(pixels.transpose(0, 2, 1, 3), fps=2),
        Pictures(pixels.reshape(4, 64, 40, 3), fps=2),
        Pictures(pixels[::-1], fps=2),
        Pictures(pixels, pts_seconds=[0, 0.5, 1, 1.5000001]),
        Pictures([image.convert("L") for image in images], fps=2),
    ]
    before = first.digest()
    pixels[0, 0, 0, 0] ^= 1
    assert first.digest() != before, "pictures that were changed are others"
    pixels[0, 0, 0, 0] ^= 1
    assert len({pictures.digest() for pictures in [first, *other]}) == 9


@pytest.mark.parametrize(
    ("pictures", "options", "message"),
    [
        (np.zeros((4, 8, 8, 3), np.uint8), {}, "pts_seconds=.*or fps=25"),
        (np.zeros((4, 8, 8, 3), np.uint8), {"fps": 1, "pts_seconds": range(4)}, "pts_seconds=.*or fps=25"),
        (np.zeros((4, 3, 8, 8), np.uint8), {"fps": 1}, r"\[4, 3, 8, 8\]; move the channels to the end"),
        (np.zeros((4, 8, 8, 3)), {"fps": 1}, "float64.*scale to 0 to 255"),
        (np.zeros((8, 8, 3), np.uint8), {"fps": 1}, r"\[8, 8, 3\]"),
        (np.zeros((4, 8, 8, 4), np.uint8), {"fps": 1}, r"\[4, 8, 8, 4\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), {"fps": 1}, "there are none"),
        (np.zeros((2, 0, 8, 3), np.uint8), {"fps": 1}, "8x0 pixels"),
        ([], {"fps": 1}, "there are none"),
        ([np.zeros((8, 8), np.uint8)], {"fps": 1}, "picture 0 must be uint8"),
        ([None], {"fps": 1}, "picture 0 must be uint8"),
        (["a.png"], {"fps": 1}, "picture 0 must be uint8"),
        (Image.new("RGB", (8, 8)), {"fps": 1}, r"give \[image\]"),
        (np.zeros((4, 8, 8, 3), np.uint8), {"fps": 0}, "fps=0"),
        (np.zeros((4, 8, 8, 3), np.uint8), {"fps": float("nan")}, "fps=nan"),
        (np.zeros((4, 8, 8, 3), np.uint8), {"fps": "25"}, "fps='25'"),
        (np.zeros((4, 8, 8, 3), np.uint8), {"pts_seconds": [0, 1, 2]}, "4 pictures take 4 times"),
        (np.zeros((3, 8, 8, 3), np.uint8), {"pts_seconds": [0, 1, 1]}, "1.0 follows 1.0"),
        (np.zeros((3, 8, 8, 3), np.uint8), {"pts_seconds": [0, 2, 1]}, "1.0 follows 2.0"),
        (np.zeros((3, 8, 8, 3), np.uint8), {"pts_seconds": [0, 1, float("inf")]}, "inf is no time"),
        (np.zeros((3, 8, 8, 3), np.uint8), {"pts_seconds": ["0:00", 1, 2]}, "seconds as numbers"),
        (np.zeros((3, 8, 8, 3), np.uint8), {"pts_seconds": 4}, "3 pictures take 3 times"),
    ],
)
def test_what_cannot_be_right_is_said(pictures, options, message):
    with pytest.raises(UsageError, match=message):
        Pictures(pictures, **options)


def test_images_that_cannot_be_read_are_said(tmp_path):
    Image.fromarray(draw(1)).save(tmp_path / "broken.png")
    data = (tmp_path / "broken.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(data[: len(data) // 2])
    with (
        Image.open(tmp_path / "broken.png") as broken,
        pytest.raises(VideoError, match="stills: image 1 cannot be read"),
    ):
        read_frames(Pictures([draw(0), broken], fps=1, name="stills"))
    with pytest.raises(UsageError, match=r"image 0 has real numbers for pixels \(mode F\)"):
        probe(Pictures([Image.new("F", (8, 8))], fps=1))
    with pytest.raises(UsageError, match="image 0 has values from 70000 to 70000"):
        probe(Pictures([Image.new("I", (8, 8), 70000)], fps=1))


def test_an_index_of_pictures_is_that_of_a_file_with_the_same_frames(folder):
    path = LOSSLESS.write(folder)
    with open_video(path) as file, open_video(pictures_of(path)) as pictures:
        of_file, of_pictures = file.info, pictures.info
    alike = {f.name for f in dataclasses.fields(of_file)} - {"path", "container", "codec"}
    for name in alike:
        assert getattr(of_pictures, name) == pytest.approx(getattr(of_file, name)), name
