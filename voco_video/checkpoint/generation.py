"""A checkpoint's generation_config.json: checked, and made into what changes the scores of the next token.

The library's own processors do the work. An option of `AnswerOptions` comes before the file, and the file before the
library's defaults. What in the file has no effect here is named by `departures`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from voco_video.checkpoint.configurations import check_token_ids
from voco_video.checkpoint.files import GENERATION_CONFIG
from voco_video.errors import ModelError
from voco_video.files.checked_values import Checked, is_number, is_whole
from voco_video.files.settings import first_line, has_file, read_settings

log = logging.getLogger(__name__)

Processors = Callable[[Tensor, Tensor], Tensor]
"""From the token ids so far ``[B, T]`` and the scores of the next ``[B, vocabulary]`` to changed scores."""

ALWAYS_USED = (
    *("repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "forced_bos_token_id"),
    *("forced_eos_token_id", "min_length", "min_new_tokens", "exponential_decay_length_penalty"),
    *("remove_invalid_values", "renormalize_logits", "watermarking_config"),
)
LIBRARY_TOP_K = 50  # where neither an option nor the checkpoint says
USED_TO_SAMPLE = ("top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
WITHOUT_EFFECT: Mapping[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": 0,
    "guidance_scale": 1,
    "token_healing": False,
    "stop_strings": None,
    "max_time": None,
    "constraints": None,
    "force_words_ids": None,
    "dola_layers": None,
    "prompt_lookup_num_tokens": None,
}
"""Settings that would change answers and are not supported, each with the value that changes nothing."""

# Where these are left to the file, the library prepares memory or other ways of decoding that nothing here uses.
_OUR_WAY = {"num_beams": 1, "num_return_sequences": 1, "guidance_scale": 1.0, "token_healing": False, "use_cache": True}
_FACTORS = ("repetition_penalty", "encoder_repetition_penalty")
_SHARES = ("top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_COUNTS = (
    *("top_k", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "max_length", "min_new_tokens"),
    *("max_new_tokens", "num_beams"),
)
_TOKEN_IDS = ("eos_token_id", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id")


def check_generation(folder: Path, vocab_size: int) -> dict[str, Any] | None:
    """Read a folder's generation_config.json and check its values; None where there is none.

    Raises:
        ModelError: it is damaged, or names a key whose value cannot be right.
    """
    path = folder / GENERATION_CONFIG
    if not has_file(folder, GENERATION_CONFIG):
        return None
    settings = read_settings(path)
    checked = Checked(settings, path)
    for key in (*_TOKEN_IDS, "pad_token_id", "bos_token_id"):
        checked.get(
            key, "a token id, a list of them or null", lambda v: all(is_whole(i, least=-1) for i in _as_list(v)), None
        )
    for key in _TOKEN_IDS:
        check_token_ids(_as_list(settings.get(key)), vocab_size, path, key)
    words = checked.get("bad_words_ids", "lists of token ids", _is_id_lists, None)
    check_token_ids([token for word in words or () for token in word], vocab_size, path, "bad_words_ids")
    for key in _FACTORS:
        checked.get(key, "a number above 0", lambda v: v is None or (is_number(v) and v > 0), None)
    for key in _SHARES:
        checked.get(key, "a number from 0 to 1", lambda v: v is None or (is_number(v) and 0 <= v <= 1), None)
    checked.get("temperature", "a number from 0 on", lambda v: v is None or (is_number(v) and v >= 0), None)
    checked.get("length_penalty", "a number", lambda v: v is None or is_number(v), None)
    for key in _COUNTS:
        checked.get(key, "a whole number", lambda v: v is None or is_whole(v), None)
    return settings


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _is_id_lists(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(ids, list) and all(is_whole(i) for i in ids) for ids in value)
    )


def read_generation(folder: Path, *, eos_token_id: Any) -> GenerationConfig:
    """Read a folder's checked generation_config.json; warn of settings in it that would change answers and do not.

    Args:
        eos_token_id: what ends an answer where the file does not say.

    Raises:
        ModelError: the library refuses it.
    """
    try:
        config = GenerationConfig.from_pretrained(folder)
    except Exception as error:  # the library raises anything
        raise ModelError(f"{folder / GENERATION_CONFIG} cannot be read: {first_line(error)}") from error
    if config.eos_token_id is None:  # without it no answer would end
        config.eos_token_id = eos_token_id
    for key in _FACTORS:  # the library refuses whole numbers
        if getattr(config, key) is not None:
            setattr(config, key, float(getattr(config, key)))
    if ignored := _ignored(config.to_dict()):
        log.warning("%s: %s", folder / GENERATION_CONFIG, ignored)
    config.max_length = config.max_new_tokens = None  # options say how long an answer is
    config.stop_strings = None  # the library would index the whole vocabulary for them
    return config


def check_processors(hf_model: Any, folder: Path) -> None:
    """Try a model's generation settings on one token.

    Raises:
        ModelError: the library cannot use them.
    """
    ids = torch.zeros(1, 1, dtype=torch.long, device=hf_model.device)
    scores = torch.zeros(1, hf_model.config.get_text_config(decoder=True).vocab_size, device=hf_model.device)
    try:
        for temperature in (0.0, 1.0):
            logits_processors(hf_model, ids, {"max_new_tokens": 1}, temperature=temperature)(ids, scores.clone())
    except Exception as error:  # the library raises anything
        raise ModelError(f"{folder / GENERATION_CONFIG} cannot be used: {first_line(error)}") from error


def logits_processors(
    hf_model: Any, input_ids: Tensor, settings: Mapping[str, Any], *, temperature: float
) -> Processors:
    """Make what changes the scores of the next token, as the library's own ``generate`` would.

    Args:
        input_ids: ``[B, T]``, without padding: what the answers follow.
        settings: for `GenerationConfig`; None leaves a setting to the checkpoint.
        temperature: 0 takes the likeliest token, so nothing is made that only sampling needs.
    """

    def prepared(model: Any, input_ids: Tensor, logits_processor: Any, **others: Any) -> Any:
        return logits_processor

    sampling = {"do_sample": True, "temperature": float(temperature)} if temperature else {"do_sample": False}
    config = GenerationConfig(**{**_OUR_WAY, "cache_implementation": "dynamic", **sampling, **settings})
    if config.pad_token_id is None:
        config.pad_token_id = 0  # nothing is padded; without one the library says that it takes another
    with _without_library_warnings():
        processors: Processors = hf_model.generate(
            input_ids,
            generation_config=config,
            attention_mask=torch.ones_like(input_ids),
            position_ids=torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids),  # else some
            custom_generate=prepared,  # models keep their own for the next call
        )
    return processors


@contextmanager
def _without_library_warnings() -> Iterator[None]:
    """Keep the library from warning that a file's sampling settings have no effect on the likeliest token.

    It says so of every published checkpoint that samples by default. `departures` tells what differs from the file.
    """
    logger = logging.getLogger(GenerationConfig.__module__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def settings_in_force(generation_config: GenerationConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """List the settings that choose tokens, with their values: options first, then the checkpoint's.

    Args:
        options: values of `AnswerOptions` by name; None leaves one to the checkpoint.

    >>> settings_in_force(GenerationConfig(repetition_penalty=1.05, top_k=20), {"temperature": 0.0, "top_k": None})
    {'repetition_penalty': 1.05, 'temperature': 0.0}
    """
    names = (*ALWAYS_USED, *(USED_TO_SAMPLE if options.get("temperature") else ()))
    of_file = {name: getattr(generation_config, name, None) for name in names}
    if "top_k" in of_file and of_file["top_k"] is None:
        of_file["top_k"] = LIBRARY_TOP_K
    given = {name: value for name, value in options.items() if value is not None}
    return {**{k: v for k, v in of_file.items() if v is not None and k not in given}, **given}


def departures(settings: Mapping[str, Any]) -> str:
    """Say in one line how answers differ from what a generation_config.json asks for; "" where they do not.

    >>> departures({"do_sample": True, "top_k": 20})
    'the checkpoint samples (top_k 20), but answers take the likeliest token unless given a temperature'
    >>> departures({"do_sample": False, "num_beams": 4})
    'without effect here: num_beams 4'
    """
    parts = []
    temperature = settings.get("temperature")
    if settings.get("do_sample") and (temperature is None or temperature > _NEARLY_GREEDY):
        names = [name for name in ("temperature", "top_p", "top_k", "min_p") if settings.get(name) is not None]
        how = ", ".join(f"{name} {settings[name]}" for name in names) or "temperature 1.0"
        parts.append(f"the checkpoint samples ({how}), but answers take the likeliest token unless given a temperature")
    return "; ".join(part for part in (*parts, _ignored(settings)) if part)


def _ignored(settings: Mapping[str, Any]) -> str:
    idle = {name: value for name, value in settings.items() if name in WITHOUT_EFFECT and value is not None}
    named = [f"{name} {value}" for name, value in idle.items() if value != WITHOUT_EFFECT[name]]
    return f"without effect here: {', '.join(named)}" if named else ""


_NEARLY_GREEDY = 0.01  # Qwen2.5-VL's file samples with 1e-06, which takes the likeliest token
