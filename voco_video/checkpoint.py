"""Checkpoints on disk: an ordinary Hugging Face folder plus two small files, and the published VoCo-LLaMA layout.

config.json, *.safetensors, tokenizer files, preprocessor_config.json      the image-text model, untouched
voco_config.json        num_voco_tokens, token ids of the templates, trained, about
voco.safetensors        voco_embeds [K, D]
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    LlamaConfig,
    LlavaConfig,
)

from voco_video.adapters import load_adapters
from voco_video.backbone import Backbone, ImageSettings, PromptTemplate, image_settings
from voco_video.errors import ModelError, UsageError
from voco_video.model import VocoModel

ASSETS = Path(__file__).parent / "assets"
ATTENTION_IMPLEMENTATIONS = ("sdpa", "flash_attention_2", "eager")
VOCO_CONFIG, VOCO_WEIGHTS = "voco_config.json", "voco.safetensors"

# The published training code puts a newline between image and VoCo tokens, and between those and the question; its
# tokenizer is Llama's, where a newline is the byte token 13.
PUBLISHED_NEWLINE_ID = 13
PUBLISHED_NUM_VOCO_TOKENS = 2
# Under the published mask the text sees nothing before the first VoCo token, so the conversation begins after it.
PUBLISHED_CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '' if loop.first else 'USER: ' }}{{ m.content }} ASSISTANT:"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
_PUBLISHED_NAMES = {
    "model.vision_tower.vision_tower.vision_model.": "model.vision_tower.",
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "model.": "model.language_model.",
    "lm_head.": "lm_head.",
}


def load_voco_model(
    path: str | Path = "voco-tiny",
    *,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str = "sdpa",
    num_voco_tokens: int | None = None,
) -> VocoModel:
    """Load a checkpoint for inference.

    Args:
        path: a folder, a hub id already in the local Hugging Face cache, or the name of an embedded model
            (``voco-tiny``).
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``, ``cuda:1``, ...
        dtype: ``auto`` (bfloat16 on CUDA, float32 elsewhere), ``float32``, ``bfloat16`` or ``float16``.
        attn_implementation: ``sdpa``, ``flash_attention_2`` (the flash-attn extra) or ``eager``.
        num_voco_tokens: for a published checkpoint, how many VoCo tokens a frame gets (2, as it was trained); for one
            without VoCo tokens, how many untrained ones to give it. Otherwise the checkpoint decides.

    Raises:
        ModelError: the folder is not a checkpoint that this version reads.
        UsageError: an option that cannot be right.

    >>> load_voco_model("voco-tiny").num_voco_tokens
    8
    """
    torch_device = resolve_device(device)
    torch_dtype = resolve_dtype(dtype, torch_device)
    if attn_implementation not in ATTENTION_IMPLEMENTATIONS:
        raise UsageError(f"attention {attn_implementation!r} is not one of {', '.join(ATTENTION_IMPLEMENTATIONS)}")
    folder = find_checkpoint(path)
    config = json.loads((folder / "config.json").read_text())
    options = {"dtype": torch_dtype, "attn_implementation": attn_implementation}
    if config.get("model_type") == "llava_llama":
        return _load_published(folder, config, torch_device, options, num_voco_tokens or PUBLISHED_NUM_VOCO_TOKENS)
    return _load_hugging_face(folder, torch_device, options, num_voco_tokens)


def save_voco_model(model: VocoModel, folder: str | Path, *, state_dict: dict[str, Tensor] | None = None) -> Path:
    """Write a model as an ordinary Hugging Face folder plus its VoCo files; `load_voco_model` reads it back.

    Args:
        state_dict: weights by their names in ``model`` to write instead of its own: where they are sharded over
            processes, or adapters are merged into them.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    backbone = model.backbone
    voco_embeds, weights = model.voco_embeds, None
    if state_dict is not None:
        prefix = "language_and_vision."
        voco_embeds = state_dict["voco_embeds"]  # type: ignore[assignment]
        weights = {n.removeprefix(prefix): t for n, t in state_dict.items() if n.startswith(prefix)}
    backbone.model.save_pretrained(folder, state_dict=weights)
    if backbone.tokenizer is not None:
        backbone.tokenizer.save_pretrained(folder)
    save_file({"voco_embeds": voco_embeds.detach().cpu().contiguous()}, folder / VOCO_WEIGHTS)
    settings = {
        "format": 1,
        "num_voco_tokens": model.num_voco_tokens,
        "trained": model.trained,
        "about": model.about,
        **asdict(backbone.template),
        "images": backbone.images.describe(),
        "chat_template": backbone.chat_template,
    }
    (folder / VOCO_CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(_processor_config(backbone.images), indent=2) + "\n")
    return folder


def find_checkpoint(path: str | Path) -> Path:
    """The folder of a checkpoint: a path, an embedded model's name, or a hub id in the local Hugging Face cache.

    Raises:
        ModelError: nothing of that name is here; nothing is downloaded.
    """
    folder = Path(path).expanduser()
    embedded = ASSETS / str(path)
    for candidate in (folder, embedded):
        if (candidate / "config.json").is_file():
            return candidate
    if folder.is_dir():
        raise ModelError(f"{folder} holds no config.json, so it is not a checkpoint folder")
    known = ", ".join(sorted(p.name for p in ASSETS.iterdir() if p.is_dir())) if ASSETS.is_dir() else "none"
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(path), local_files_only=True))
    except Exception as error:
        raise ModelError(
            f"no checkpoint {str(path)!r}: not a folder, not an embedded model ({known}), and not in the local Hugging "
            f"Face cache. Fetch a hub model first with `hf download {path}`"
        ) from error


def resolve_device(device: str) -> torch.device:
    """``auto`` or a device name to a device.

    Raises:
        UsageError: no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {device!r} is not available here; use 'cpu' or leave it at 'auto'") from error
    return resolved


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """``auto`` or a type name to a floating-point type.

    Raises:
        UsageError: not a type that weights are kept in.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    names = ("float32", "bfloat16", "float16")
    if dtype not in names:
        raise UsageError(f"dtype {dtype!r} is not one of auto, {', '.join(names)}")
    return getattr(torch, dtype)


def _load_hugging_face(
    folder: Path, device: torch.device, options: dict[str, Any], num_voco_tokens: int | None
) -> VocoModel:
    model = _from_pretrained(folder, **options)
    tokenizer = AutoTokenizer.from_pretrained(folder) if _has_tokenizer(folder) else None
    load_adapters(model.get_decoder(), folder)
    model.to(device).eval()
    if not (folder / VOCO_CONFIG).is_file():
        images = image_settings(AutoImageProcessor.from_pretrained(folder))
        return _with_untrained_voco(model, tokenizer, images, num_voco_tokens, folder)
    settings = json.loads((folder / VOCO_CONFIG).read_text())
    template = PromptTemplate(
        *(tuple(settings[name]) for name in ("frame_before_ids", "frame_after_ids", "text_before_ids"))
    )
    images = ImageSettings.from_description(settings["images"])
    backbone = Backbone(model, tokenizer, images, template, settings.get("chat_template"))
    embeds = load_file(folder / VOCO_WEIGHTS)["voco_embeds"]
    if num_voco_tokens is not None and num_voco_tokens != embeds.shape[0]:
        raise UsageError(f"num_voco_tokens={num_voco_tokens}: {folder.name} was made with {embeds.shape[0]}")
    return VocoModel(backbone, embeds, trained=settings["trained"], about=settings.get("about", "")).eval()


def _with_untrained_voco(
    model: Any, tokenizer: Any, images: ImageSettings, num_voco_tokens: int | None, folder: Path
) -> VocoModel:
    """A plain checkpoint given VoCo embeddings that have learned nothing, only where the caller asked for them."""
    if num_voco_tokens is None:
        raise ModelError(
            f"{folder} has no VoCo tokens ({VOCO_CONFIG} is missing): it was never trained to compress. "
            "Give num_voco_tokens to add untrained ones as a starting point for training"
        )
    config = model.config.get_text_config(decoder=True)
    bos = config.bos_token_id
    backbone = Backbone(model, tokenizer, images, PromptTemplate(() if bos is None else (bos,), ()))
    spread = backbone.embed([0]).new_tensor(model.get_input_embeddings().weight.float().std().item())
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(num_voco_tokens, backbone.hidden_size, generator=generator).to(spread) * spread
    return VocoModel(backbone, embeds, trained=False, about="Its VoCo tokens are untrained.").eval()


def _from_pretrained(folder: Path, **options: Any) -> Any:
    try:
        return AutoModelForImageTextToText.from_pretrained(folder, **options)
    except ImportError as error:
        raise UsageError(f"{error}. Install the extra: pip install 'voco-video[flash-attn]', or use sdpa") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load {folder}: {error}") from error


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"))


def _processor_config(images: ImageSettings) -> dict[str, Any]:
    box = {"height": images.fit.height, "width": images.fit.width}
    crop = images.fit.mode == "crop"
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": min(box.values())} if crop else box,
        "do_center_crop": crop,
        "crop_size": box,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(images.mean),
        "image_std": list(images.std),
        "resample": 3,
    }


# ---------------------------------------------------------------------- the published layout


def _load_published(
    folder: Path, config: dict[str, Any], device: torch.device, options: dict[str, Any], num_voco_tokens: int
) -> VocoModel:
    """A checkpoint of the published VoCo-LLaMA code: LLaVA's names, one ``<voco>`` row at the end of the vocabulary."""
    tower = folder / str(config["mm_vision_tower"])
    tower = tower if tower.is_dir() else find_checkpoint(config["mm_vision_tower"])
    weights = _published_weights(folder, tower)
    model = AutoModelForImageTextToText.from_config(_published_config(config, tower), **options)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ModelError(f"{folder}: weights missing {missing[:3]}, unknown {unexpected[:3]}")
    model.generation_config.eos_token_id = config.get("eos_token_id")
    model.generation_config.pad_token_id = config.get("pad_token_id")
    tokenizer = AutoTokenizer.from_pretrained(folder) if _has_tokenizer(folder) else None
    newline = (PUBLISHED_NEWLINE_ID,)
    backbone = Backbone(
        model.to(device).eval(),
        tokenizer,
        _published_images(config, tower),
        PromptTemplate((config["bos_token_id"],), newline, newline),
        PUBLISHED_CHAT_TEMPLATE,
    )
    voco_token_id = config["vocab_size"] - 1
    return VocoModel(backbone, backbone.embed([voco_token_id] * num_voco_tokens).detach().clone()).eval()


def _published_weights(folder: Path, tower: Path) -> dict[str, Tensor]:
    shards = sorted(folder.glob("model*.safetensors"))
    if not shards:
        raise ModelError(f"{folder} holds no safetensors weights")
    weights = {_hugging_face_name(n): t for shard in shards for n, t in load_file(shard).items()}
    if not any(name.startswith("model.vision_tower.") for name in weights):  # a tower that stayed frozen
        for shard in sorted(tower.glob("model*.safetensors")):
            for name, tensor in load_file(shard).items():
                if name.startswith("vision_model."):
                    weights[name.replace("vision_model.", "model.vision_tower.", 1)] = tensor
    return weights


def _hugging_face_name(name: str) -> str:
    for old, new in _PUBLISHED_NAMES.items():
        if name.startswith(old):
            return new + name[len(old) :]
    raise ModelError(f"unknown weight {name!r} in a published checkpoint")


def _published_config(config: dict[str, Any], tower: Path) -> LlavaConfig:
    if config.get("mm_projector_type") != "mlp2x_gelu":
        raise ModelError(f"projector {config.get('mm_projector_type')!r} is not supported, only 'mlp2x_gelu'")
    vision = AutoConfig.from_pretrained(tower)
    strategy: Any = {"patch": "default", "cls_patch": "full"}[config["mm_vision_select_feature"]]
    return LlavaConfig(
        vision_config=getattr(vision, "vision_config", vision),
        text_config=LlamaConfig(**{k: v for k, v in config.items() if k in _LLAMA_SETTINGS}),
        vision_feature_layer=config["mm_vision_select_layer"],
        vision_feature_select_strategy=strategy,
        tie_word_embeddings=config.get("tie_word_embeddings", False),
    )


_LLAMA_SETTINGS = frozenset(
    {
        *("vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "hidden_act", "rms_norm_eps", "rope_theta", "rope_scaling"),
        *("attention_bias", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"),
    }
)


def _published_images(config: dict[str, Any], tower: Path) -> ImageSettings:
    images = image_settings(AutoImageProcessor.from_pretrained(tower))
    if config.get("image_aspect_ratio") != "pad":
        return images
    red, green, blue = (round(255 * channel) for channel in images.mean)
    grey = (red, green, blue)
    return replace(images, fit=replace(images.fit, mode="pad", pad_rgb=grey))
