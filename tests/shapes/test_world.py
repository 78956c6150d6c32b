"""MovingShapes: what is drawn is what is told, answers are true, and only the pixels give them away."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from itertools import islice, product
from pathlib import Path

import av
import numpy as np
import pytest

from voco_video.errors import UsageError
from voco_video.shapes.questions import demo_questions, draw_questions
from voco_video.shapes.rendering import render, write_clip
from voco_video.shapes.samples import MovingShapes, draw_lists, vocabulary
from voco_video.shapes.scene_view import FAMILIES, NUMBERS, QuestionAnswer
from voco_video.shapes.world import (
    COLOURS,
    MOTIONS,
    PLACES,
    SHAPES,
    Scene,
    ShapeObject,
    demo_scene,
    draw_scene,
    is_held_out,
    staggered_pairs,
)

SCENES = [draw_scene(1, split=split, index=index) for split in ("train", "test") for index in range(300)]

OPPOSITE = {"still": "still", "left": "right", "right": "left", "up": "down", "down": "up"}


def reverse_scene(scene: Scene) -> Scene:
    """The scene backwards in time."""

    def reversed_object(thing: ShapeObject) -> ShapeObject:
        return replace(
            thing,
            motion=OPPOSITE[thing.motion],
            start=thing.end,
            end=thing.start,
            appears_seconds=scene.duration_seconds - thing.disappears_seconds,
            disappears_seconds=scene.duration_seconds - thing.appears_seconds,
        )

    return replace(scene, objects=tuple(map(reversed_object, scene.objects)))


@cache  # two tests count the same 3 000 scenes
def questions_of(split: str, num_scenes: int, *, image: bool) -> list[QuestionAnswer]:
    found = []
    for index in range(num_scenes):
        scene = draw_scene(0, split=split, index=index, always_visible=image)
        at_seconds = index % 17 / 17 * scene.duration_seconds if image else None
        rng = np.random.default_rng([len(split), index])
        found += draw_questions(scene, rng, num_questions=8, at_seconds=at_seconds)
    return found


# --- scenes


def test_scene_depends_on_seed_split_and_index_alone() -> None:
    scene = draw_scene(3, split="val", index=5)
    assert scene == draw_scene(3, split="val", index=5)
    others = [(4, "val", 5), (3, "test", 5), (3, "val", 6)]
    assert all(scene != draw_scene(seed, split=split, index=index) for seed, split, index in others)


def test_stored_scene_has_not_changed() -> None:
    """Trained models and published tables rest on it: raise the layouts' world version with it."""
    told = [(o.name, o.motion, o.place_at(o.appears_seconds)) for o in draw_scene(0, index=0).objects]
    assert told == [("red diamond", "down", "top left"), ("purple star", "up", "bottom")]


def test_objects_never_touch_and_stay_inside() -> None:
    for scene in SCENES:
        times = np.linspace(0, scene.duration_seconds, 40)
        tracks = [(o, o.positions(times)) for o in scene.objects]
        for number, (thing, track) in enumerate(tracks):
            assert (track >= thing.radius).all()
            assert (track <= 1 - thing.radius).all()
            for other, other_track in tracks[:number]:
                apart = np.linalg.norm(track - other_track, axis=1)
                assert apart.min() > thing.radius + other.radius, scene


def test_counts_are_uniform() -> None:
    num_objects = Counter(len(scene.objects) for scene in SCENES)
    num_moving = Counter(sum(o.is_moving for o in scene.objects) for scene in SCENES)
    assert set(num_objects) == {1, 2, 3, 4}
    assert set(num_moving) == {0, 1, 2, 3}
    assert max([*num_objects.values(), *num_moving.values()]) < 0.25 * len(SCENES) * 1.35


def test_spans_and_gaps_show_in_eight_frames() -> None:
    for scene in SCENES:
        times = (np.arange(8) + 0.5) / 8 * scene.duration_seconds
        assert all(sum(o.is_visible(t) for t in times) >= 2 for o in scene.objects)
        ends = {end for o in scene.objects for end in (o.appears_seconds, o.disappears_seconds)}
        for event, next_event in itertools.pairwise(sorted(ends - {0.0, scene.duration_seconds})):
            assert any(event <= t < next_event for t in times)
        for early, late in staggered_pairs(scene):
            assert any(early.is_visible(t) and not late.is_visible(t) for t in times)
            assert any(late.is_visible(t) and not early.is_visible(t) for t in times)


def test_held_out_combinations_are_never_trained_and_always_tested() -> None:
    held_out = {combination for combination in product(COLOURS, SHAPES, MOTIONS) if is_held_out(*combination)}
    seen: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for split, index in product(("train", "val", "test"), range(1500)):
        scene = draw_scene(0, split=split, index=index)
        combinations = {(o.colour, o.shape, o.motion) for o in scene.objects}
        assert split != "test" or combinations & held_out
        seen[split] |= combinations
    assert not (seen["train"] | seen["val"]) & held_out
    assert seen["test"] >= held_out
    # Nothing is new in test but the triples: every pair of attributes is trained.
    for keep in ((0, 1), (0, 2), (1, 2)):
        pairs = {tuple(c[k] for k in keep) for c in product(COLOURS, SHAPES, MOTIONS)}
        assert {tuple(c[k] for k in keep) for c in seen["train"]} == pairs


def test_world_is_the_same_backwards() -> None:
    motions = Counter(o.motion for scene in SCENES for o in scene.objects)
    backwards = Counter(o.motion for scene in SCENES for o in reverse_scene(scene).objects)
    assert all(abs(motions[m] - backwards[m]) < 4 * motions[m] ** 0.5 for m in MOTIONS)


@pytest.mark.parametrize(("split", "index"), [("nowhere", 0), ("train", -1)])
def test_impossible_scene_is_refused(split: str, index: int) -> None:
    with pytest.raises(UsageError, match=f"{split if index == 0 else index}"):
        draw_scene(0, split=split, index=index)


# --- pixels


def colour_centre(frame: np.ndarray, thing: ShapeObject) -> tuple[float, float] | None:
    """Where the object's colour is, found by looking at every pixel: (x, y) in the unit square."""
    ys, xs = np.nonzero(np.abs(frame.astype(int) - thing.rgb).sum(axis=2) < 20)
    if len(xs) == 0:
        return None
    return (xs.mean() + 0.5) / frame.shape[1], (ys.mean() + 0.5) / frame.shape[0]


def test_objects_are_seen_where_and_when_they_are() -> None:
    checked = 0
    for scene in SCENES[:150]:
        colours = [o.colour for o in scene.objects]
        times = np.linspace(0, scene.duration_seconds, 9, endpoint=False)
        frames = render(scene, times)
        for thing, (t, frame) in product(scene.objects, zip(times, frames, strict=True)):
            if colours.count(thing.colour) > 1:
                continue
            centre = colour_centre(frame, thing)
            assert (centre is not None) == thing.is_visible(t), (thing, t)
            if centre is not None:
                assert centre == pytest.approx(thing.positions([t])[0].tolist(), abs=0.045), (thing, t)
                checked += 1
    assert checked > 500


@pytest.mark.parametrize("shape", SHAPES)
def test_antialiasing_equals_averaging_a_large_picture(shape: str) -> None:
    thing = ShapeObject("red", shape, "still", 0.12, (0.43, 0.52), (0.43, 0.52), 0.0, 1.0, COLOURS["red"])
    scene = Scene((thing,), 1.0, 10, (220, 220, 220))
    small = render(scene, [0.0], size=64)[0].astype(float)
    large = render(scene, [0.0], size=1024)[0].astype(float).reshape(64, 16, 64, 16, 3).mean(axis=(1, 3))
    difference = np.abs(small - large)
    assert difference.max() < 80
    assert difference.mean() < 0.5


def test_shapes_look_different() -> None:
    pictures = {}
    for shape in SHAPES:
        thing = ShapeObject("black", shape, "still", 0.11, (0.5, 0.5), (0.5, 0.5), 0.0, 1.0, (0, 0, 0))
        pictures[shape] = render(Scene((thing,), 1.0, 10, (255, 255, 255)), [0.0])[0, ..., 0] < 128
    areas = [picture.sum() for picture in pictures.values()]
    assert max(areas) < 2.1 * min(areas)
    for one, other in product(SHAPES, SHAPES):
        assert one == other or (pictures[one] ^ pictures[other]).sum() >= 15, (one, other)


def test_batch_of_times_equals_one_by_one() -> None:
    times = [7.9, 0.0, 3.3, 5.0]
    batch = render(demo_scene(), times, size=(48, 80))
    assert np.array_equal(batch, np.concatenate([render(demo_scene(), [t], size=(48, 80)) for t in times]))


def test_scene_fills_the_middle_square_undistorted() -> None:
    wide = render(demo_scene(), [4.0], size=(96, 128))
    assert np.array_equal(wide[:, :, 16:112], render(demo_scene(), [4.0], size=96))


def test_rendering_does_not_starve_a_trainer() -> None:
    scenes = SCENES[:100]
    times = [(np.arange(16) + 0.5) / 16 * scene.duration_seconds for scene in scenes]
    began = time.process_time()
    for scene, pts_seconds in zip(scenes, times, strict=True):
        render(scene, pts_seconds)
    assert 16 * len(scenes) / (time.process_time() - began) > 2000


# --- clips


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.mkv"])
def test_clip_holds_the_rendered_frames(tmp_path: Path, name: str) -> None:
    scene = demo_scene()
    path = write_clip(scene, tmp_path / name, size=(120, 160))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == scene.fps
        decoded = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
    assert len(decoded) == scene.num_frames == 80
    pts_seconds = [number / scene.fps for number in range(scene.num_frames)]
    # AVI keeps no presentation times: FFmpeg's guess is right but for a constant.
    first = decoded[0][0] if name.endswith(".avi") else 0.0
    assert [t - first for t, _ in decoded] == pytest.approx(pts_seconds, abs=2e-3)
    expected = render(scene, pts_seconds, size=(120, 160)).astype(int)
    assert np.abs(np.stack([pixels for _, pixels in decoded]) - expected).mean() < 3


def test_scaled_down_clip_looks_like_the_training_frames(tmp_path: Path) -> None:
    scene = demo_scene()
    path = write_clip(scene, tmp_path / "clip.mp4", size=256)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    scaled = np.stack(frames[::10]).reshape(-1, 64, 4, 64, 4, 3).mean(axis=(2, 4))
    expected = render(scene, np.arange(8.0))
    assert np.abs(scaled - expected).mean() < 3


def test_same_scene_gives_the_same_file(tmp_path: Path) -> None:
    one, other = (write_clip(SCENES[0], tmp_path / f"{n}.mp4", size=64) for n in "ab")
    assert one.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_odd_sides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="161x120"):
        write_clip(demo_scene(), tmp_path / "clip.mp4", size=(120, 161))


# --- answers


def find(scene: Scene, words: str) -> ShapeObject:
    """The one object that has all these words for colour or shape."""
    wanted = set(words.split()) - {"one", "the"}
    (found,) = (o for o in scene.objects if wanted <= {o.colour, o.shape})
    return found


def answer_by_hand(question: str, scene: Scene) -> str | None:
    """A second way from a question about a video to its answer; None for what it does not know."""
    words = r"the ([a-z]+(?: [a-z]+)?)"
    moving = [o for o in scene.objects if o.motion != "still"]
    still = [o for o in scene.objects if o.motion == "still"]
    if question == "how many shapes are there?":
        return NUMBERS[len(scene.objects)]
    if question == "how many shapes move?":
        return NUMBERS[len(moving)]
    if m := re.fullmatch(r"how many (\w+)(?: shapes)? are there\?", question):
        word = m[1].removesuffix("es") if m[1] == "crosses" else m[1].removesuffix("s")
        return NUMBERS[sum(m[1] == o.colour or word == o.shape for o in scene.objects)]
    if m := re.fullmatch(r"(?:what (colour|shape)|(who)) (moves|stays)\?", question):
        (thing,) = moving if m[3] == "moves" else still
        return thing.colour if m[1] == "colour" else thing.shape
    if m := re.fullmatch(r"(?:what (colour|shape)|who) is at the (.+)\?", question):
        (thing,) = (o for o in still if o.place_at(0) == m[2])
        return thing.colour if m[1] == "colour" else thing.shape
    if m := re.fullmatch(rf"what (colour|shape) is {words}\?", question):
        return str(getattr(find(scene, m[2]), m[1]))
    if m := re.fullmatch(r"who is (\w+)\?", question):
        return find(scene, m[1]).shape
    if m := re.fullmatch(rf"where is {words}\?", question):
        return find(scene, m[1]).place_at(0)
    if m := re.fullmatch(r"is there any (\w+ \w+)\?", question):
        return "yes" if m[1] in {o.name for o in scene.objects} else "no"
    if m := re.fullmatch(rf"is {words} at the (.+)\?", question):
        return "yes" if find(scene, m[1]).place_at(0) == m[2] else "no"
    if m := re.fullmatch(r"is the (\w+) (\w+)\?", question):
        return "yes" if find(scene, m[1]).colour == m[2] else "no"
    return temporal_answer_by_hand(question, scene, words)


def temporal_answer_by_hand(question: str, scene: Scene, words: str) -> str | None:
    if m := re.fullmatch(rf"what does {words} do\?", question):
        return "move" if find(scene, m[1]).start != find(scene, m[1]).end else "stay"
    if m := re.fullmatch(rf"does {words} move\?", question):
        return "yes" if find(scene, m[1]).start != find(scene, m[1]).end else "no"
    if m := re.fullmatch(rf"where does {words} (start|end)\?", question):
        x, y = getattr(find(scene, m[1]), m[2])
        return PLACES[3 * int(3 * y) + int(3 * x)]
    if m := re.fullmatch(rf"(?:where )?does {words} go(?: (\w+))?\?", question):
        (x0, y0), (x1, y1) = find(scene, m[1]).start, find(scene, m[1]).end
        way = ("right" if x1 > x0 else "left") if x1 != x0 else "down" if y1 > y0 else "up"
        return way if m[2] is None else "yes" if way == m[2] else "no"
    if m := re.fullmatch(rf"when is {words} there, early or late\?", question):
        thing = find(scene, m[1])
        return "early" if thing.appears_seconds + thing.disappears_seconds < scene.duration_seconds else "late"
    if m := re.fullmatch(rf"when does {words} (appear|disappear), before or after {words}\?", question):
        one, other = (getattr(find(scene, m[i]), f"{m[2]}s_seconds") for i in (1, 3))
        return "before" if one < other else "after"
    if m := re.fullmatch(rf"who (appears|disappears) first, {words} or {words}\?", question):
        first = min((m[2], m[3]), key=lambda name: getattr(find(scene, name), f"{m[1]}_seconds"))
        return first.removesuffix(" one")
    return None


def test_answers_are_true_and_order_matters_where_it_is_said() -> None:
    num_questions = 0
    for index, scene in enumerate(SCENES):
        backwards = reverse_scene(scene)
        for asked in draw_questions(scene, np.random.default_rng(index), num_questions=12):
            assert answer_by_hand(asked.question, scene) == asked.answer, (asked, scene)
            if asked.is_temporal:
                same_backwards = answer_by_hand(asked.question, backwards) == asked.answer
                assert same_backwards != asked.needs_order, (asked, scene)
            assert asked.answer in asked.candidates
            assert asked.question_type in FAMILIES
            num_questions += 1
    assert num_questions > 10 * len(SCENES)


def test_image_answers_are_those_of_the_moment() -> None:
    for index, scene in enumerate(SCENES):
        at_seconds = 0.5 * scene.duration_seconds
        seen = Scene(
            tuple(
                ShapeObject(o.colour, o.shape, "still", o.radius, (x, y), (x, y), 0.0, 1.0, o.rgb)
                for o in scene.visible_at(at_seconds)
                for x, y in [o.positions([at_seconds])[0].tolist()]
            ),
            1.0,
            scene.fps,
            scene.background_rgb,
        )
        for asked in draw_questions(scene, np.random.default_rng(index), at_seconds=at_seconds):
            assert not asked.is_temporal
            assert answer_by_hand(asked.question, seen) == asked.answer, (asked, scene)


@pytest.mark.exhaustive
@pytest.mark.parametrize("image", [True, False], ids=["image", "video"])
def test_text_alone_is_no_better_than_guessing(image: bool) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for asked in questions_of("train", 3000, image=image):
        answers[asked.question][asked.answer] += 1
    for split in ("val", "test"):
        right, chance = defaultdict(list), defaultdict(list)
        for asked in questions_of(split, 700, image=image):
            family = (asked.question_type, asked.is_temporal, asked.needs_order)
            guess = answers[asked.question].most_common(1)
            right[family].append(bool(guess) and guess[0][0] == asked.answer)
            chance[family].append(asked.chance)
        for family, hits in right.items():
            noise = 2.5 * (0.25 / len(hits)) ** 0.5
            assert np.mean(hits) < np.mean(chance[family]) + 0.04 + noise, (split, family, np.mean(hits))


def test_few_answers_are_equally_frequent() -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for asked in questions_of("train", 3000, image=False):
        is_small = len(asked.candidates) <= 4 and "first" not in asked.question
        counts[f"{asked.question_type} {asked.about} {asked.candidates}"][asked.answer] += is_small
    for kind, count in counts.items():
        if (total := count.total()) > 200:
            assert max(count.values()) / total < 1.16 / len(count), (kind, count)


def test_lists_state_everything() -> None:
    rng = np.random.default_rng(0)
    lists = {turn.question: turn.answer for turn in draw_lists(demo_scene(), rng, num_lists=8)}
    motions = "purple star at top left stays, red triangle at top right stays, "
    motions += "blue square at right goes left to left, green circle at bottom stays"
    events = "star purple there, square blue there, triangle red appears, circle green appears, "
    events += "triangle red disappears, circle green disappears"
    assert len(lists) == 8
    assert lists["list the motions, colour first."] == motions
    assert lists["list the events, shape first."] == events
    assert lists["list the times, shape first."].endswith("circle green late")
    image = {turn.question: turn.answer for turn in draw_lists(demo_scene(), rng, num_lists=3, at_seconds=4.0)}
    places = "purple star top left, red triangle top right, blue square centre, green circle bottom"
    assert image["list the shapes, colour first."] == places
    assert len(image) == 3


def test_demo_questions_have_true_answers() -> None:
    assert all(answer_by_hand(asked.question, demo_scene()) == asked.answer for asked in demo_questions())
    assert not any(is_held_out(o.colour, o.shape, o.motion) for o in demo_scene().objects)
    assert {asked.question_type for asked in demo_questions()} == {"what", "who", "how", "where", "when"}


def test_unknown_family_is_refused() -> None:
    with pytest.raises(UsageError, match="why"):
        draw_questions(demo_scene(), np.random.default_rng(0), families=["why"])


# --- the stream


@pytest.mark.parametrize("stage", ["image", "video"])
def test_random_access_equals_the_stream(stage: str) -> None:
    stream = MovingShapes(seed=2, stage=stage, num_frames=6, random_phase=True)
    for sample in islice(stream.samples(start=40), 5):
        again = stream.sample(sample.index)
        assert (again.index, again.scene, again.turns) == (sample.index, sample.scene, sample.turns)
        assert np.array_equal(again.frames, sample.frames)
        assert np.array_equal(again.pts_seconds, sample.pts_seconds)
    assert sample.index == 44
    assert sample.frames.shape == ((1 if stage == "image" else 6), 64, 64, 3)
    assert sample.frames.dtype == np.uint8


@pytest.mark.parametrize("stage", ["image", "video"])
def test_turns_are_short_questions_then_lists_of_known_words(stage: str) -> None:
    stream = MovingShapes(seed=0, stage=stage, num_turns=6, dense_fraction=0.25, num_frames=1)
    known, num_lists = set(vocabulary()), 0
    for sample in islice(stream.samples(), 300):
        kinds = [turn.question_type == "list" for turn in sample.turns]
        assert kinds == sorted(kinds)
        num_lists += sum(kinds)
        text = " ".join(f"{turn.question} {turn.answer}" for turn in sample.turns)
        assert set(re.findall(r"[a-z]+|[?,.]", text)) <= known
        assert len(sample.turns) == 6 or not sample.scene.objects or stage == "image"
    assert 1.3 * 300 < num_lists < 1.7 * 300


def test_stream_of_an_unknown_stage_is_refused() -> None:
    with pytest.raises(UsageError, match="sound"):
        MovingShapes(stage="sound")
