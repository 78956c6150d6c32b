"""One model in many threads gives what it gives in one, bit for bit; and so it does whatever its caller has set."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

import voco_video
from tests.helpers.clips import Clip
from tests.helpers.models import random_pixels, tiny_voco
from tests.helpers.tiny_families import EACH_FAMILY, tiny_family
from voco_video.answer.attention_scores import frame_keys, last_token_queries
from voco_video.answer.compressed_video import CompressedVideo
from voco_video.answer.generate import frame_attention, generate
from voco_video.api import VideoModel
from voco_video.errors import UsageError
from voco_video.model import freed_memory
from voco_video.model.adapters import add_adapters
from voco_video.model.backbone import CACHE_ARGUMENT
from voco_video.model.compressors import compress_frames
from voco_video.model.voco import VocoModel
from voco_video.options.answering import AnswerOptions
from voco_video.options.compression import parse_compressor

QUESTIONS = ("where does the square go?", "who is green?", "how many shapes are there?")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> VideoModel:
    """The shipped model, which compresses with some weights and answers with others."""
    return voco_video.load_model("voco-tiny", cache_dir=tmp_path_factory.mktemp("cache"), device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    made = [Clip(f"{i}.mp4", num_frames=12 + i, rate=4, height=64 + 16 * i) for i in range(4)]
    return [str(clip.write(folder)) for clip in made]


@pytest.fixture(scope="module")
def videos(model, clips) -> list[CompressedVideo]:
    return [model.compress(clip, fps=4) for clip in clips]


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads take turns a hundred times as often."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(usual)


# ---------------------------------------------------------------------- what threads do


def bits(*arrays: Any) -> tuple[bytes, ...]:
    """The bytes of tensors and arrays."""
    plain = (t.reshape(-1).view(torch.uint8).numpy() if isinstance(t, torch.Tensor) else t for t in arrays)
    return tuple(array.tobytes() for array in plain)


def anew(video: CompressedVideo) -> CompressedVideo:
    """The same frames without what was remembered of earlier questions."""
    return CompressedVideo(video.model, video.parts)


def compress(model: VideoModel, video: CompressedVideo, i: int) -> Any:
    source = video.parts[0].entry.facts["source"]
    form = ("embeds", "kv")[i % 2]
    return bits(*model.compress(source, fps=4, form=form, force=True).tokens().tensors().values())


def ask(model: VideoModel, video: CompressedVideo, i: int) -> Any:
    answers = anew(video).ask(QUESTIONS, num_voco_tokens=4 + i)
    return [(a.text, a.token_ids, a.confidence) for a in answers]


def stream(model: VideoModel, video: CompressedVideo, i: int) -> Any:
    return list(anew(video).stream(QUESTIONS[i % 3]))


def find(model: VideoModel, video: CompressedVideo, i: int) -> Any:
    fresh = anew(video)
    return bits(*(fresh.frame_scores(q) for q in QUESTIONS)), voco_video.find([fresh], "the red star")[0].moment


def search(model: VideoModel, video: CompressedVideo, i: int) -> Any:
    """Find by attention, as a model does that has not learned to find."""
    return bits(CompressedVideo(replace(model, retriever=None), video.parts).frame_scores(QUESTIONS[i % 3]))


def attention(model: VideoModel, video: CompressedVideo, i: int) -> Any:
    answer = anew(video).ask(QUESTIONS[i % 3], with_attention=True)
    return bits(answer.frame_attention), answer.video_attention, answer.text


def load(model: VideoModel, video: CompressedVideo, i: int) -> Any:
    dtype = ("float32", "bfloat16")[i % 2]
    loaded = voco_video.load_model("voco-tiny", device="cpu", dtype=dtype)
    pixels = random_pixels(2, size=loaded.voco.backbone.images.fit.height)
    kept = loaded.voco.compress(loaded.voco.vision_tokens(pixels).detach(), form="embeds")
    return bits(kept.embeds.float()), loaded.fingerprint


WORK = (compress, ask, stream, find, search, attention, load)


def at_once(jobs: list[Callable[[], Any]]) -> list[Any]:
    """What each job gives, every one in a thread of its own; they start together."""
    results: list[Any] = [None] * len(jobs)
    start = threading.Barrier(len(jobs))

    def work(i: int) -> None:
        start.wait()
        try:
            results[i] = jobs[i]()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture(scope="module")
def alone(model, videos) -> dict[tuple[str, int], Any]:
    """What all work gives where nothing else runs."""
    return {(work.__name__, i): work(model, videos[i], i) for work in WORK for i in range(4)}


PAIRS = list(itertools.combinations_with_replacement(WORK, 2))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].__name__}-{pair[1].__name__}")
def test_whatever_two_threads_do_they_get_what_one_gets(model, videos, alone, quick_switches, pair):
    work = [pair[0], pair[1], pair[0], pair[1]]
    jobs = [lambda w=w, i=i: w(model, videos[i], i) for i, w in enumerate(work)]
    for result, w, i in zip(at_once(jobs), work, range(4), strict=True):
        assert result == alone[w.__name__, i]
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.exhaustive
def test_everything_at_once_again_and_again(model, videos, alone, quick_switches):
    work = [(w, i) for w in WORK for i in range(2)]
    for _ in range(10):
        results = at_once([lambda w=w, i=i: w(model, videos[i], i) for w, i in work])
        assert {(w.__name__, i): r for (w, i), r in zip(work, results, strict=True)} == {
            (w.__name__, i): alone[w.__name__, i] for w, i in work
        }


def test_threads_that_compress_the_same_video_share_one_entry(model, clips):
    results = at_once([lambda: model.compress(clips[0], num_frames=5)] * 4)
    assert len({r.parts[0].entry.digest for r in results}) == 1
    assert len({bits(*r.tokens().tensors().values()) for r in results}) == 1


@pytest.mark.parametrize("rank", [0, 2])
def test_one_thread_answers_with_adapters_while_another_compresses_without(quick_switches, rank):
    voco = tiny_voco()
    if rank:
        pytest.importorskip("peft")
    add_adapters(voco.backbone.decoder, rank=rank, alpha=8.0, targets=("q_proj", "down_proj"))
    with torch.no_grad():
        for name, parameter in voco.backbone.decoder.named_parameters():
            if "answer_layer" in name or "lora_" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    voco.answering_form = "kv"
    needs_gradient = {name: p.requires_grad for name, p in voco.named_parameters()}
    pixels = random_pixels(3)

    def compressed() -> Any:
        return bits(*voco.compress(voco.vision_tokens(pixels).detach()).tensors().values())

    prefix = voco.prefix(voco.compress(voco.vision_tokens(pixels).detach()))

    def answered() -> Any:
        return generate(voco, prefix, [[5, 9, 11], [7, 8]], options=AnswerOptions(6, stop_at_end=False))

    alone = [compressed(), answered()]
    for _ in range(10):
        assert at_once([compressed, answered] * 2) == alone * 2
    assert needs_gradient == {name: p.requires_grad for name, p in voco.named_parameters()}


# ---------------------------------------------------------------------- streams


@contextmanager
def passes_counted(voco: VocoModel) -> Iterator[list[int]]:
    ran: list[int] = []
    hook = voco.backbone.decoder.layers[0].register_forward_hook(lambda *_: ran.append(1))
    yield ran
    hook.remove()


def test_between_two_pieces_of_a_stream_the_same_thread_may_do_anything(model, videos, alone):
    for other in (compress, ask, find, search, attention, stream):
        pieces = []
        for piece in anew(videos[0]).stream(QUESTIONS[0]):
            pieces.append(piece)
            assert other(model, videos[1], 1) == alone[other.__name__, 1]
        assert pieces == alone["stream", 0]
    both = [anew(videos[i]).stream(QUESTIONS[i]) for i in range(2)]
    taken: list[list[str]] = [[], []]
    for pair in itertools.zip_longest(*both):
        for i, piece in enumerate(pair):
            taken[i] += [] if piece is None else [piece]
    assert taken == [alone["stream", 0], alone["stream", 1]]


def test_a_callback_of_compressing_may_ask(model, clips, videos, alone):
    seen = []
    again = model.compress(
        clips[1], fps=4, force=True, batch_size=4, on_progress=lambda _: seen.append(ask(model, videos[0], 0))
    )
    assert len(seen) > 3
    assert all(answers == alone["ask", 0] for answers in seen)
    plain = model.compress(clips[1], fps=4, force=True, batch_size=4)
    assert bits(*again.tokens().tensors().values()) == bits(*plain.tokens().tensors().values())


def test_a_stream_says_what_an_answer_says(model, videos):
    for video in videos:
        for question in QUESTIONS:
            assert "".join(video.stream(question)).strip() == video.ask(question).text


@pytest.mark.parametrize("leave", ["kept", "closed", "dropped"])
def test_a_stream_that_nobody_reads_generates_nothing(videos, leave):
    voco, threads = videos[0].model.voco, threading.active_count()
    voco_ends = voco.backbone.hf_model.generation_config
    usual, voco_ends.eos_token_id = voco_ends.eos_token_id, None
    try:
        pieces = videos[0].stream(QUESTIONS[0], max_new_tokens=400)
        with passes_counted(voco) as ran:
            next(pieces)
            before = len(ran)
            if leave == "closed":
                pieces.close()
            if leave == "dropped":
                del pieces
                gc.collect()
            assert threading.active_count() == threads, "nothing runs on beside"
            videos[1].ask(QUESTIONS[1], max_new_tokens=1)
            assert len(ran) - before <= 2, "what was asked meanwhile, and nothing else"
            assert before < 10
    finally:
        voco_ends.eos_token_id = usual


# ---------------------------------------------------------------------- generation


@torch.inference_mode()
def by_the_library(
    voco: VocoModel, prefix: Any, prompts: list[list[int]], options: AnswerOptions, penalty: float | None
) -> list[list[int]]:
    """New token ids of the library's own `generate`."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        do_sample=options.temperature > 0,
        temperature=options.temperature or None,
        repetition_penalty=penalty,
        eos_token_id=[voco.backbone.text_config.vocab_size],
        pad_token_id=0,
    )
    torch.manual_seed(options.seed)
    out = voco.backbone.hf_model.generate(
        ids,
        generation_config=config,
        attention_mask=torch.cat([mask.new_ones(len(prompts), prefix.length), mask], dim=1),
        position_ids=prefix.text_start + (mask.cumsum(1) - 1).clamp_min(0),
        **{CACHE_ARGUMENT: prefix.to_cache(len(prompts))},
    )
    return out[:, longest:].tolist()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", EACH_FAMILY)
@pytest.mark.parametrize(("temperature", "penalty"), [(0.0, None), (0.8, None), (0.0, 1.5)])
def test_tokens_are_those_that_the_library_generates(name, temperature, penalty):
    voco = tiny_family(name)
    fit = voco.backbone.images.fit
    pixels = random_pixels(2, size=max(fit.height, fit.width))[:, : fit.height, : fit.width]
    prefix = voco.prefix(voco.compress(voco.vision_tokens(pixels).detach()))
    voco.backbone.hf_model.generation_config.repetition_penalty = penalty  # a checkpoint may have settings of its own
    options = AnswerOptions(8, temperature=temperature, seed=3, stop_at_end=False)
    for prompts in ([[20, 30, 40]], [[20, 30, 40], [50, 60]]):
        state = torch.get_rng_state()
        ours = [ids for ids, _ in generate(voco, prefix, prompts, options=options)]
        assert torch.equal(torch.get_rng_state(), state), "torch's own generator is the caller's"
        assert ours == [by_the_library(voco, prefix, [prompt], options, penalty)[0] for prompt in prompts]
        torch.set_rng_state(state)


def test_sampling_follows_its_seed_alone(videos):
    def sampled(seed: int) -> tuple[int, ...]:
        return videos[0].ask(QUESTIONS[0], temperature=4.0, seed=seed, max_new_tokens=12).token_ids

    alone = [sampled(seed) for seed in range(4)]
    assert len(set(alone)) > 1
    torch.manual_seed(99)
    assert at_once([lambda s=s: sampled(s) for s in range(4)]) == alone


# ---------------------------------------------------------------------- what a caller has set


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


SETTINGS: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default device": lambda: default_device("meta"),
    "device": lambda: torch.device("meta"),
    "double": lambda: default_dtype(torch.float64),
    "half": lambda: default_dtype(torch.float16),
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference_mode": torch.inference_mode,
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("setting", SETTINGS)
def test_what_a_caller_has_set_stays_out(model, videos, alone, setting):
    with SETTINGS[setting]():
        results = {(work.__name__, 1): work(model, videos[1], 1) for work in WORK if work is not load}
        loaded = voco_video.load_model("voco-tiny", device="cpu", cache_dir=model.cache.cache_dir)
        results["ask", 2] = ask(loaded, CompressedVideo(loaded, videos[2].parts), 2)
        results["find", 2] = find(loaded, CompressedVideo(loaded, videos[2].parts), 2)
    assert results == {key: alone[key] for key in results}
    assert loaded.fingerprint == model.fingerprint
    assert not any(p.is_inference() or p.is_meta for p in loaded.voco.parameters())


@pytest.mark.one_in(2)
@pytest.mark.parametrize("storage", ["native", "int8"])
@pytest.mark.parametrize("compressor", ["voco", "pool:4", "full", "none"])
def test_what_a_caller_has_set_stays_out_of_every_kind_of_entry(model, clips, compressor, storage):
    def kept() -> Any:
        video = model.compress(clips[0], fps=2, compressor=compressor, form="kv", storage=storage, force=True)
        answer = video.ask(QUESTIONS[0], clock_every_seconds=1.0 if compressor == "voco" else None)
        return bits(*video.tokens().tensors().values()), answer.token_ids, answer.confidence

    usual = kept()
    for setting in ("autocast", "default device", "double", "half"):
        with SETTINGS[setting]():
            assert kept() == usual, setting


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_what_a_caller_has_set_stays_out_of_every_family(name):
    voco = tiny_family(name)
    fit = voco.backbone.images.fit
    pixels = random_pixels(2, size=max(fit.height, fit.width))[:, : fit.height, : fit.width]

    def computed() -> Any:
        found = []
        for compressor in ("voco", "pool:1"):
            tokens = compress_frames(voco, seen(), parse_compressor(compressor))
            prefix = voco.prefix(tokens)
            answers = generate(voco, prefix, [[20, 30, 40], [50, 60]], options=AnswerOptions(4, stop_at_end=False))
            shares, total = frame_attention(voco, prefix, [20, 30, 40], answers[0][0])
            queries = last_token_queries(voco, "who?", position=prefix.text_start, form="kv")
            found += [bits(*tokens.tensors().values(), shares, queries, frame_keys(voco, tokens)[0]), answers, total]
        return found

    def seen() -> torch.Tensor:
        from voco_video.model.inference import undisturbed

        with undisturbed():
            return voco.vision_tokens(pixels)

    usual = computed()
    for setting in SETTINGS:
        with SETTINGS[setting]():
            if name.startswith("glm") and setting in ("double", "half"):  # its tower follows the default type
                with pytest.raises(UsageError, match="tower of GLM"):
                    computed()
                continue
            assert computed() == usual, setting


def test_what_a_caller_has_set_is_as_it_was_afterwards(model, videos):
    with torch.autocast("cpu", torch.bfloat16), default_device("meta"):
        stream = videos[0].stream(QUESTIONS[0])
        next(stream)
        assert torch.is_autocast_enabled("cpu")
        assert torch.empty(1).is_meta
        assert not torch.is_inference_mode_enabled()
        stream.close()


# ---------------------------------------------------------------------- one implementation of attention for one pass


@pytest.mark.parametrize("name", EACH_FAMILY)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_another_attention_shares_the_weights_and_changes_nothing_else(name, attention):
    voco = tiny_family(name)
    decoder, embeds = voco.backbone.decoder, torch.randn(1, 7, 64, generator=torch.Generator().manual_seed(0))
    before = {name: (id(m), dict(vars(m)), len(m._forward_hooks)) for name, m in decoder.named_modules()}
    other = voco.backbone.decoder_by(attention)
    with torch.no_grad():
        looked = other(inputs_embeds=embeds, output_attentions=attention == "eager", use_cache=False)
        usual = decoder(inputs_embeds=embeds, use_cache=False)
    assert torch.allclose(looked.last_hidden_state, usual.last_hidden_state, atol=1e-5)
    assert {id(p) for p in other.parameters()} == {id(p) for p in decoder.parameters()}
    assert {name: (id(m), dict(vars(m)), len(m._forward_hooks)) for name, m in decoder.named_modules()} == before
    assert voco.backbone.text_config._attn_implementation == "sdpa"
    if attention == "eager":
        assert len(looked.attentions) == 3


def test_another_attention_keeps_what_moves_tensors_between_devices():
    hooks = pytest.importorskip("accelerate.hooks")
    voco = tiny_voco()
    embeds = torch.randn(1, 7, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        usual = voco.backbone.decoder_by("eager")(inputs_embeds=embeds, use_cache=False).last_hidden_state
    moved = []

    class Notes(hooks.AlignDevicesHook):
        def pre_forward(self, module, *args, **kwargs):
            moved.append(module)
            return super().pre_forward(module, *args, **kwargs)

    for layer in voco.backbone.decoder.layers:
        hooks.add_hook_to_module(layer, Notes(execution_device="cpu"))
    other = voco.backbone.decoder_by("eager")
    with torch.no_grad():
        assert torch.equal(other(inputs_embeds=embeds, use_cache=False).last_hidden_state, usual)
    assert moved == list(other.layers)
    assert other.layers[0] is not voco.backbone.decoder.layers[0]


# ---------------------------------------------------------------------- the process


def test_memory_settings_are_the_command_lines(monkeypatch, run):
    called: list[str] = []
    monkeypatch.setattr(freed_memory, "_call_libc", lambda name, *_: called.append(name))
    for name in list(os.environ):
        if name.startswith(("MALLOC_", "GLIBC_")):
            monkeypatch.delenv(name)
    voco_video.load_model("voco-tiny", device="cpu")
    assert not called
    assert run("cache", "ls")[0] == 0
    assert called == ["mallopt"] * 3


@pytest.mark.exhaustive
@pytest.mark.parametrize("used", [True, False])
def test_a_forked_process_says_that_it_cannot_use_the_model(model, videos, used):
    """What it loads itself it can use, whatever its parent has computed."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(used)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    refused, own, parents = done.stdout.split("\n")[:3]
    assert "was loaded before its process was forked" in refused
    assert own == parents, "its own model gives what the parent's gives"


FORKED = """
import os, sys
import numpy as np, voco_video
from voco_video.errors import UsageError

def kept(model):
    size = model.voco.backbone.images.fit.height
    pixels = np.random.default_rng(0).integers(0, 256, (9, size, size, 3), np.uint8)
    tokens = model.voco.compress(model.voco.vision_tokens(pixels).detach(), form="embeds")
    return tokens.embeds.round(decimals=2).double().sum().item()

model = voco_video.load_model("voco-tiny", device="cpu")
if sys.argv[1] == "True":
    kept(model)
read_end, write_end = os.pipe()
if os.fork() == 0:
    try:
        kept(model)
    except UsageError as error:
        print(error, flush=True)
    print(f"{kept(voco_video.load_model('voco-tiny', device='cpu')):.0f}", flush=True)
    os._exit(0)
status = os.wait()[1]
print(f"{kept(model):.0f}")
sys.exit(os.waitstatus_to_exitcode(status))
"""
