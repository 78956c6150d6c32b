"""Pictures of any colours, sizes and shapes to RGB of one size."""

import io
import logging
from fractions import Fraction
from importlib.util import find_spec

import av
import numpy as np
import pytest

from tests.helpers.clips import draw, read_number
from voco_video.errors import VideoError
from voco_video.options.sampling import Sampling
from voco_video.video.picture_facts import AspectReader
from voco_video.video.reading import open_video, probe, read_frames
from voco_video.video.scaling import MAX_PIXELS, Fit, FrameScaler, Orientation

HEIGHT, WIDTH = 48, 64


def smooth(height=HEIGHT, width=WIDTH):
    """A picture [height, width, 3] without edges, so that halved chroma loses little."""
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + x * 3 % 200, 60 + y * 3, 200 - x - y], -1).clip(0, 255).astype(np.uint8)


def yuv_frame(planes, *, colorspace, color_range=1, pixel_format="yuv444p"):
    """An `av.VideoFrame` of three planes [h, w] of 8-bit codes."""
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], pixel_format)
    for plane, codes in zip(frame.planes, planes, strict=True):
        rows = np.zeros((codes.shape[0], plane.line_size), np.uint8)
        rows[:, : codes.shape[1]] = codes
        plane.update(rows)
    frame.colorspace, frame.color_range = colorspace, color_range
    return frame


def to_rgb(frame, fit=None):
    scaler = FrameScaler(fit, stored_height=frame.height, stored_width=frame.width, name="clip.mp4")
    pixels = scaler.new_batch(1)[0]
    scaler.write(frame, pixels)
    return pixels


def as_ycgco(picture, color_range):
    """H.273's equations for 8 bits, forward: Y, Cg, Co."""
    red, green, blue = np.moveaxis(picture.astype(float) / 255, -1, 0)
    y = green / 2 + (red + blue) / 4
    cg, co = green / 2 - (red + blue) / 4, (red - blue) / 2
    scales = (16, 219, 224) if color_range == 1 else (0, 255, 255)
    codes = [scales[0] + scales[1] * y, 128 + scales[2] * cg, 128 + scales[2] * co]
    return [np.clip(np.rint(code), 0, 255).astype(np.uint8) for code in codes]


@pytest.mark.parametrize("color_range", [1, 2])
@pytest.mark.parametrize("fit", [None, Fit(24, 32, "stretch")], ids=["as it is", "smaller"])
def test_ycgco_is_converted_by_its_own_equations(caplog, color_range, fit):
    picture = smooth()
    frame = yuv_frame(as_ycgco(picture, color_range), colorspace=8, color_range=color_range)
    plain = to_rgb(av.VideoFrame.from_ndarray(picture, format="rgb24"), fit)
    assert np.abs(to_rgb(frame, fit).astype(int) - plain).max() <= (3 if fit is None else 4)
    assert not caplog.records
    assert (frame.colorspace, frame.color_range) == (8, color_range)


@pytest.mark.parametrize(("matrix", "bits"), [(16, 2), (17, 1)])
def test_reversible_ycgco_is_converted_by_its_own_equations(matrix, bits):
    red, green, blue = np.moveaxis(smooth().astype(int), -1, 0)
    co = red - blue
    t = blue + (co >> 1)
    cg = green - t
    y = t + (cg >> 1)
    half = 1 << (7 + bits)
    frame = av.VideoFrame(WIDTH, HEIGHT, {2: "yuv444p10le", 1: "yuv444p9le"}[bits])
    for plane, codes in zip(frame.planes, (y, cg + half, co + half), strict=True):
        rows = np.zeros((HEIGHT, plane.line_size // 2), np.uint16)
        rows[:, :WIDTH] = codes
        plane.update(rows)
    frame.colorspace, frame.color_range = matrix, 2
    assert np.abs(to_rgb(frame).astype(int) - smooth()).max() <= 2


@pytest.mark.parametrize(
    ("matrix", "primaries", "nearest", "said"),
    [(10, 2, 9, "BT.2020 with constant luminance"), (14, 9, 9, "ICtCp"), (12, 1, 1, "derived from the primaries"),
     (13, 9, 9, "derived"), (12, 2, 2, "derived"), (11, 2, 9, "SMPTE 2085"), (15, 2, 9, "IPT-C2"),
     (3, 2, 2, "number 3, which is reserved"), (18, 2, 2, "number 18"), (200, 2, 2, "number 200")],
)  # fmt: skip
def test_a_matrix_that_the_scaler_does_not_know_gives_way_to_the_nearest(caplog, matrix, primaries, nearest, said):
    planes = [plane.copy() for plane in np.moveaxis(smooth(), -1, 0)]
    frame = yuv_frame(planes, colorspace=matrix)
    frame.color_primaries = primaries
    scaler = FrameScaler(Fit(24, 32), stored_height=HEIGHT, stored_width=WIDTH, name="clip.mp4")
    pixels = scaler.new_batch(2)
    with caplog.at_level(logging.WARNING, "voco_video"):
        scaler.write(frame, pixels[0])
        scaler.write(frame, pixels[1])
    assert np.array_equal(pixels[0], to_rgb(yuv_frame(planes, colorspace=nearest), Fit(24, 32)))
    assert np.array_equal(pixels[0], pixels[1])
    (record,) = caplog.records  # once for both
    assert said in record.getMessage()
    assert record.getMessage().startswith("clip.mp4: ")
    assert frame.colorspace == matrix


@pytest.mark.parametrize("matrix", [3, 8, 10, 14, 16])
@pytest.mark.parametrize(
    "pixel_format", ["gray", "gray10le", "rgb24", "gbrp", "pal8", "yuv420p", "nv12", "yuv420p10le"]
)
def test_a_wild_matrix_on_any_pixel_format_is_no_error(caplog, pixel_format, matrix):
    picture = av.VideoFrame.from_ndarray(smooth(), format="rgb24")
    frame = av.VideoFrame(WIDTH, HEIGHT, "pal8") if pixel_format == "pal8" else picture.reformat(format=pixel_format)
    expected = to_rgb(frame, Fit(20, 20))
    frame.colorspace = matrix
    pixels = to_rgb(frame, Fit(20, 20))
    if not pixel_format.startswith(("yuv", "nv")):
        assert np.array_equal(pixels, expected)
        assert not caplog.records


def test_a_wild_range_counts_as_none():
    planes = [plane.copy() for plane in np.moveaxis(smooth(), -1, 0)]
    frame = yuv_frame(planes, colorspace=1, color_range=3)
    assert np.array_equal(to_rgb(frame), to_rgb(yuv_frame(planes, colorspace=1, color_range=0)))


@pytest.mark.parametrize("pixel_format", ["yaf32le", "rgb96le", "rgbaf32le"])
def test_pixels_that_cannot_be_converted_are_one_clear_error(pixel_format):
    """The scaler itself ends the process on the first of these."""
    if pixel_format not in av.video.format.names:
        pytest.skip("this FFmpeg does not have it")
    with pytest.raises(VideoError, match=rf"clip\.mp4.*{pixel_format}"):
        to_rgb(av.VideoFrame(16, 16, pixel_format))


# --- sizes


def elementary(sizes, *, codec="libx264", num_frames=10, aspects=(None, None, None)):
    """Bare streams of different sizes (and pixel shapes) one after the other, numbered through: bytes."""
    data, number = b"", 0
    for (height, width), aspect in zip(sizes, aspects, strict=False):
        memory = io.BytesIO()
        with av.open(memory, "w", format="h264" if codec == "libx264" else "mpeg2video") as container:
            stream = container.add_stream(codec, rate=25, options={"bf": "0"})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            stream.bit_rate = 4_000_000
            if aspect:
                stream.codec_context.sample_aspect_ratio = aspect
            for _ in range(num_frames):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(draw(number, height, width), format="rgb24")))
                number += 1
            container.mux(stream.encode(None))
        data += memory.getvalue()
    return data


def remuxed(data, path):
    """Bare packets into a container, each with its time."""
    with av.open(io.BytesIO(data)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        number = 0
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                packet.pts = packet.dts = number
                packet.duration = 1
                target.mux(packet)
                number += 1
    return path


def scaled_plainly(picture, height, width, fit, aspect=Fraction(1)):
    """What a file of this picture alone would give: [H, W, 3]."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
    scaler = FrameScaler(fit, stored_height=height, stored_width=width, sample_aspect_ratio=aspect)
    pixels = scaler.new_batch(1)[0]
    scaler.write(frame, pixels)
    return pixels


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_a_size_that_changes_in_mid_stream_is_fitted_anew(tmp_path, mode, suffix):
    sizes = [(96, 160), (160, 96), (96, 96)]
    path = remuxed(elementary(sizes), tmp_path / f"clip.{suffix}")
    fit = Fit(64, 64, mode, pad_rgb=(255, 0, 255))
    batch = read_frames(path, Sampling(fps=25), fit=fit)
    assert len(batch) == 30
    for number, pixels in enumerate(batch.pixels):
        height, width = sizes[number // 10]
        alone = scaled_plainly(draw(number, height, width), height, width, fit)
        assert np.abs(pixels.astype(int) - alone.astype(int)).mean() < 6


def test_without_a_fit_pictures_of_another_size_lie_in_the_first_ones_box(tmp_path):
    path = remuxed(elementary([(96, 160), (160, 96), (192, 320)]), tmp_path / "clip.ts")
    assert (probe(path).height, probe(path).width) == (96, 160)
    pixels = read_frames(path, Sampling(fps=25)).pixels
    assert pixels.shape == (30, 96, 160, 3)
    upright = pixels[15]  # 96 rows high, 58 columns wide, in the middle
    assert not upright[:, :50].any()
    assert not upright[:, 110:].any()
    assert read_number(upright[:, 51:109]) == 15
    assert [read_number(pixels[number]) for number in (0, 9, 20, 29)] == [0, 9, 20, 29]


def test_frames_after_the_change_alone_keep_the_first_ones_box(tmp_path):
    path = remuxed(elementary([(96, 160), (160, 96)]), tmp_path / "clip.mkv")
    whole = read_frames(path, Sampling(fps=25)).pixels
    late = read_frames(path, Sampling(fps=25, start_seconds=0.6)).pixels
    assert np.array_equal(late, whole[-len(late) :])


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_a_shape_of_pixels_that_changes_in_mid_stream_counts(tmp_path, codec):
    """As in broadcasts, which go from 4:3 to 16:9 and keep the number of pixels."""
    aspects = (Fraction(1), Fraction(16, 9))
    data = elementary([(96, 96), (96, 96)], codec=codec, aspects=aspects)
    path = remuxed(data, tmp_path / "clip.ts")
    with av.open(str(path)) as container:
        reader = AspectReader()
        assert [reader.read(frame) for frame in container.decode(video=0)] == [aspects[n // 10] for n in range(20)]
    fit = Fit(48, 48)
    batch = read_frames(path, Sampling(fps=25), fit=fit)
    for number, pixels in enumerate(batch.pixels):
        alone = scaled_plainly(draw(number, 96, 96), 96, 96, fit, aspects[number // 10])
        assert np.abs(pixels.astype(int) - alone.astype(int)).mean() < 9


def test_a_containers_shape_of_pixels_goes_before_the_streams(tmp_path):
    """Both differ, neither changes: every frame is shown as the container says."""
    path = tmp_path / "clip.mkv"
    with av.open(io.BytesIO(elementary([(96, 96)], aspects=(Fraction(2),)))) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        stream.sample_aspect_ratio = Fraction(1, 2)
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 25), number, number
                out.mux(packet)
    info = probe(path)
    pixels = read_frames(path, Sampling(fps=25)).pixels
    assert pixels.shape[1:3] == (info.height, info.width)
    assert [read_number(picture) for picture in pixels] == list(range(10))


@pytest.mark.parametrize("kind", ["sizes", "shapes", "a shape that stays"])
def test_libraries_that_bring_all_to_the_first_ones_size_give_way(tmp_path, kind):
    pytest.importorskip("decord")
    sizes = {"sizes": [(96, 160), (160, 96)]}.get(kind, [(96, 96), (96, 96)])
    aspects = {"shapes": (Fraction(1), Fraction(2)), "a shape that stays": (Fraction(4, 3), Fraction(4, 3))}.get(kind)
    path = remuxed(elementary(sizes, aspects=aspects or (None, None)), tmp_path / "clip.mkv")
    pixels = [
        read_frames(path, Sampling(fps=25), fit=Fit(64, 64), backend=name).pixels.astype(int)
        for name in ("pyav", "decord")
    ]
    assert np.abs(pixels[0] - pixels[1]).mean() < (0.01 if kind != "a shape that stays" else 3)


def test_absurd_sizes_are_one_clear_error():
    with pytest.raises(VideoError, match=r"clip\.mp4.*more than"):
        FrameScaler(None, stored_height=120, stored_width=160, sample_aspect_ratio=Fraction(32512), name="clip.mp4")
    with pytest.raises(VideoError, match="more than"):
        FrameScaler(Fit(336, 336), stored_height=120, stored_width=160, sample_aspect_ratio=Fraction(32512))
    with pytest.raises(VideoError, match="more than"):
        FrameScaler(None, stored_height=MAX_PIXELS, stored_width=2, orientation=Orientation(transpose=True))
    scaler = FrameScaler(None, stored_height=8192, stored_width=8192, name="clip.mp4")
    with pytest.raises(VideoError, match=r"clip\.mp4.*GiB"):
        scaler.new_batch(1 << 30)


def test_the_given_files_of_odd_colours_and_sizes(shared, caplog):
    faults = shared / "clips" / "faults"
    with av.open(str(faults / "ycgco.mp4")) as container:
        num_frames = sum(1 for _ in container.decode(video=0))
    with open_video(faults / "ycgco.mp4") as video:
        assert sum(len(batch) for batch in video.batches(Sampling(fps=100))) == num_frames
    if find_spec("decord"):
        first, second = (read_frames(faults / "ycgco.mp4", backend=name).pixels for name in ("pyav", "decord"))
        assert np.array_equal(first, second), "decord takes it for something else"
    caplog.clear()
    assert not caplog.records
    with pytest.raises(VideoError, match=r"p7fuzz308\.apng"):
        read_frames(faults / "p7fuzz308.apng")
