"""Everything that predictions depend on: of two runs with equal settings the second resumes the first."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from blake3 import blake3

from voco_video.api import VideoModel
from voco_video.auto_compressor import settled
from voco_video.checkpoint.fingerprints import cached_fingerprint
from voco_video.checkpoint.generation import settings_in_force
from voco_video.data.samples import Dataset
from voco_video.entry_keys import cache_key
from voco_video.evaluate.options import EvalOptions
from voco_video.evaluate.plan import VideoQuestions
from voco_video.files.weights import add_to_digest
from voco_video.model.voco import VocoModel
from voco_video.version import __version__


def run_settings(
    model: VideoModel,
    dataset: Dataset,
    questions: Sequence[VideoQuestions],
    options: EvalOptions,
) -> dict[str, Any]:
    """Collect everything but the budget that predictions depend on, as JSON values."""
    is_choice = dataset.is_multiple_choice
    texts = [
        (video.video, t.question_id, t.question, t.answer, *((t.options,) if is_choice else ()))
        for video in questions
        for t in video.turns
    ]
    compressor = settled(model.voco, options.compressor, num_voco_tokens=min(options.num_voco_tokens, default=None))
    # Only the key's settings are used, which are the same for every file; this file surely exists.
    cache = cache_key(
        model.voco,
        dataset.annotations[0],
        sampling=options.sampling,
        options=replace(options.compression, compressor=str(compressor or "full")),
        fingerprint=model.fingerprint,
    )
    return {
        "dataset": dataset.name,
        "split": dataset.split,
        "num_questions": len(texts),
        "limit": options.limit,
        "limit_seed": None if options.limit is None else options.seed,
        "limit_drawn_from": None if options.limit is None else "present" if options.skip_missing else "all",
        "questions": _digest(texts),
        "model_fingerprint": cache.model_fingerprint,
        "answering_fingerprint": cached_fingerprint(
            model.voco,
            lambda: answering_fingerprint(model.voco),
            what=f"answering {_prompt_format(model.voco)}",
            cache_dir=model.cache.cache_dir,
        ),
        "cache": {**cache.settings, **({} if compressor else {"compressor": options.compressor})},
        **asdict(options.view),
        **({} if options.subtitles == "none" else {"subtitles": options.subtitles}),
        "prompt": options.prompt_for(is_multiple_choice=is_choice),
        **({"answer_by": options.answer_by} if is_choice or dataset.is_grounding else {}),
        "max_new_tokens": options.max_new_tokens,
        "questions_per_batch": options.questions_per_batch,
        **({} if model.engine is None else {"engine": model.engine.kind}),
        "rank_vocabulary": len(options.vocabulary),
        "vocabulary": _digest(options.vocabulary) if options.vocabulary else None,
        "device": model.voco.backbone.device.type,
        "attention": model.voco.backbone.text_config._attn_implementation,
    }


@torch.inference_mode()
def answering_fingerprint(voco: VocoModel) -> str:
    """Hash all weights, those that only answer included, and the form of a prompt, to 64 hex digits."""
    digest = blake3(_prompt_format(voco).encode())
    for name, parameter in sorted(voco.named_parameters()):
        add_to_digest(digest, name, parameter)
    return digest.hexdigest()


def _prompt_format(voco: VocoModel) -> str:
    backbone = voco.backbone
    template = backbone.chat_template or getattr(backbone.tokenizer, "chat_template", None)
    generation = backbone.hf_model.generation_config
    settings = settings_in_force(generation, {})  # such as a penalty for repetition; most checkpoints have none
    return repr((backbone.template, template, generation.eos_token_id, voco.answering_form, *settings.items()))


def environment_info() -> dict[str, Any]:
    """Describe the machine and the library versions, which can move the last digits of results."""
    import transformers

    return {
        "num_threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {
            "voco_video": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def _digest(value: Any) -> str:
    return blake3(json.dumps(value, ensure_ascii=False).encode()).hexdigest()
