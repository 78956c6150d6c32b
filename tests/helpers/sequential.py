"""A slow and obvious reading of a video file, the truth that quicker ones are held against: one thread, every packet
in file order into the decoder, past every error, and each picture asked which packet it came from.

    decode(path) -> [Picture, ...] in the order in which they are shown, with repaired times
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.format import Flags as ContainerFlags
from av.stream import Discard

from voco_video.video.picture_facts import AspectReader, PictureCopier
from voco_video.video.scaling import Fit, FrameScaler, Orientation

_RESET_COST = 3.5  # a clock set back explains as much as this many wrong times
_BACK_SECONDS = 1.0  # less than this is no clock set back, but wrong times


@dataclass(frozen=True)
class Raw:
    """One picture as the decoder gives it: `packet` counts from 0 in the file, ticks are None where there are none."""

    packet: int
    pts: int | None
    dts: int | None  # of its packet
    duration: int
    is_key: bool
    is_corrupt: bool  # decoded with errors in it
    pixels: np.ndarray


@dataclass(frozen=True)
class Picture:
    """One shown picture: when, from which packet, and its pixels [h, w, 3] as `FrameScaler` makes them."""

    seconds: float
    packet: int
    is_key: bool
    pixels: np.ndarray


@dataclass(frozen=True)
class Facts:
    """What the container says of the stream."""

    time_base: Fraction
    rate: Fraction
    has_only_decoding_times: bool
    sample_aspect_ratio: Fraction
    packet_dts: list[int | None]
    key_packets: list[int]  # those marked as keyframes


def decode(path: Path, fit: Fit | None = None) -> list[Picture]:
    """Every picture that decodes, in the order in which they are shown."""
    raws, facts = decode_raw(path, fit)
    times = times_of(raws, facts)
    return [Picture(time, raw.packet, raw.is_key, raw.pixels) for time, raw in zip(times, raws, strict=True)]


def decode_raw(
    path: Path,
    fit: Fit | None = None,
    *,
    first_packet: int = 0,
    keeps_pictures: bool = False,
    skippable: Collection[int] = (),
) -> tuple[list[Raw], Facts]:
    """What comes out of the decoder, scaled, and nothing made of its times.

    A picture is scaled before the next packet is fed, and let go of: what stands in the parts of a later one that the
    decoder has not written may be what its memory held before. FFmpeg's memory is zero at its first use, so these
    parts depend on the file alone.

    first_packet:    packets before it are not given to the decoder
    keeps_pictures:  keep every picture until the end instead, so that each has memory of its own
    skippable:       packets whose pictures are left out where no other builds on them
    """
    raws: list[Raw] = []
    kept: list[Any] = []
    key_packets: list[int] = []
    dts_of: dict[int, int | None] = {}
    with av.open(f"file:{path}", metadata_errors="replace") as container:
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise ValueError(f"{path}: no video stream, or none that has a decoder")
        decoder = stream.codec_context
        decoder.thread_count, decoder.thread_type = 1, "SLICE"
        decoder.flags |= Flags.copy_opaque
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        aspect_ratio = stream.sample_aspect_ratio or Fraction(1)
        if skippable:  # some decoders (dav1d) take what is to be skipped when they open, for good
            decoder.open(strict=False)
        scaler: FrameScaler | None = None

        def feed(packet: Any) -> None:
            nonlocal scaler
            frames: list[Any] = []
            with contextlib.suppress(av.error.FFmpegError):
                frames = decoder.decode(packet)
            if keeps_pictures:
                kept.extend(frames)
            for frame in frames:
                # Of a copy: PyAV holds a picture that was asked for its side data until garbage is collected.
                scaler = scaler or _scaler_for(PictureCopier().copy(frame), fit, aspect_ratio)
                pixels = scaler.new_batch(1)[0]
                scaler.write(frame, pixels)
                number, duration = frame.opaque[0], frame.duration or 0
                if decoder.codec.canonical_name == "vp9":  # where a picture that is shown again has its first name
                    number = next((number for number, dts in dts_of.items() if dts == frame.dts), number)
                raws.append(Raw(number, frame.pts, dts_of[number], duration, frame.key_frame, frame.is_corrupt, pixels))

        for number, packet in enumerate(_packets(container, stream)):
            packet.opaque = [number]  # a new object each time: PyAV knows them by id() alone
            dts_of[number] = packet.dts
            if packet.is_keyframe:
                key_packets.append(number)
            if number >= first_packet:
                if skippable:
                    decoder.skip_frame = "NONREF" if number in skippable else "DEFAULT"
                feed(packet)
        feed(None)
        facts = Facts(
            time_base=stream.time_base,
            rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            has_only_decoding_times=container.format.name == "avi"
            or bool(container.format.flags & ContainerFlags.no_timestamps.value),
            sample_aspect_ratio=aspect_ratio,
            packet_dts=[*dts_of.values()],
            key_packets=key_packets,
        )
    return raws, facts


def _packets(container: Any, stream: Any) -> Any:
    while True:
        try:
            for packet in container.demux(stream):
                if packet.size:
                    yield packet
            return
        except IndexError:  # a stream that PyAV had not seen at opening: its packet is passed over
            continue
        except av.error.FFmpegError:
            return


def _scaler_for(first: Any, fit: Fit | None, aspect_ratio: Fraction) -> FrameScaler:
    return FrameScaler(
        fit,
        stored_height=first.height,
        stored_width=first.width,
        sample_aspect_ratio=aspect_ratio,
        orientation=Orientation.of_frame(first),
        coded_aspect=AspectReader().read(first),
    )


# --- the rules of time


def times_of(raws: list[Raw], facts: Facts) -> list[float]:
    """Seconds of each picture, ascending: those that it carries, wrong ones repaired from their neighbours."""
    return [float(ticks * facts.time_base) for ticks in repair(_carried(raws, facts), facts)]


def _carried(raws: list[Raw], facts: Facts) -> list[int | None]:
    """The time that each picture brings. Decoding times, in the order in which packets lie in the file, say nothing
    of the order in which they are shown: there the k-th shown picture has the k-th of them.
    """
    if facts.has_only_decoding_times and _ascend(facts.packet_dts):
        return _in_slots(raws, facts.packet_dts)
    times = [raw.dts if facts.has_only_decoding_times and raw.dts is not None else raw.pts for raw in raws]
    by_packet = [time for _, time in sorted(zip([raw.packet for raw in raws], times, strict=True), key=lambda x: x[0])]
    if None in times or times == by_packet:
        return times
    return by_packet if _ascend(by_packet) else times


def _ascend(times: list[int | None]) -> bool:
    return None not in times and all(a < b for a, b in itertools.pairwise(times))  # type: ignore[operator]


def _in_slots(raws: list[Raw], slots: list[int | None]) -> list[int | None]:
    """The time of each picture where every packet has one: those of packets that show nothing stay free."""
    shown = {raw.packet for raw in raws}
    times: list[int | None] = []
    for number, latest in enumerate(itertools.accumulate((raw.packet for raw in raws), max)):
        place = number + sum(packet not in shown for packet in range(latest))
        times.append(slots[place] if place < len(slots) else None)
    return times


def repair(times: list[int | None], facts: Facts) -> list[Fraction]:
    """One missing, repeated or wild time becomes what its neighbours say, a clock set back goes on from where it was,
    a gap stays. Where fewer than half of the times can be kept, all are counted at the average rate.
    """
    frame = max(Fraction(1), 1 / (facts.rate * facts.time_base))
    kept = _keep(times, back=int(_BACK_SECONDS / facts.time_base))
    if 2 * len(kept) < len(times):
        return [number * frame for number in range(len(times))]
    steps = [times[b] - times[a] for a, b in itertools.pairwise(kept) if times[b] > times[a]]  # type: ignore[operator]
    step = Fraction(int(np.median(steps))) if steps else frame
    anchors: dict[int, Fraction] = {}
    shift, latest = Fraction(0), None
    for number in kept:
        time = times[number] + shift  # type: ignore[operator]
        if latest is not None and time <= anchors[latest]:
            shift += anchors[latest] + step * (number - latest) - time
            time = times[number] + shift  # type: ignore[operator]
        anchors[number], latest = Fraction(time), number
    return [_between(number, anchors, step) for number in range(len(times))]


def _keep(times: list[int | None], back: int) -> list[int]:
    """The pictures whose times are believed: as many as can be in ascending order, but for as few as can be places
    at which the clock was set back by more than `back` ticks.
    """
    best: dict[int, tuple[float, int]] = {}  # picture -> what believing it last costs, the one believed before it
    known = [number for number, time in enumerate(times) if time is not None]
    for place, number in enumerate(known):
        best[number] = (float(place), -1)
        for earlier_place, earlier in enumerate(known[:place]):
            cost = best[earlier][0] + place - earlier_place - 1
            if times[number] <= times[earlier]:  # type: ignore[operator]
                if times[number] > times[earlier] - back:  # type: ignore[operator]
                    continue
                cost += _RESET_COST
            if cost < best[number][0]:
                best[number] = (cost, earlier)
    if not known:
        return []
    last = min(known, key=lambda number: (best[number][0] + len(known) - 1 - known.index(number), number))
    chain = [last]
    while best[chain[-1]][1] >= 0:
        chain.append(best[chain[-1]][1])
    return chain[::-1]


def _between(number: int, anchors: dict[int, Fraction], step: Fraction) -> Fraction:
    """The time of a picture: its own, or on the line between its neighbours, or in usual steps from the only one."""
    before = max((other for other in anchors if other <= number), default=None)
    after = min((other for other in anchors if other >= number), default=None)
    if before is None:
        return anchors[after] - step * (after - number)  # type: ignore[index,operator]
    if after is None:
        return anchors[before] + step * (number - before)
    if before == after:
        return anchors[before]
    return anchors[before] + (anchors[after] - anchors[before]) * Fraction(number - before, after - before)
