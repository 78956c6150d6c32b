"""A tiny checkpoint in the published layout, as the original code saves it."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

from tests.helpers.tiny_families import IDS, PLAIN_TEMPLATE, tiny_family, tiny_tokenizer

VOCO_ID = len(IDS)  # one row behind the vocabulary, as training adds it


def published_weights(model) -> dict[str, torch.Tensor]:
    """A LLaVA model's weights under the names that the original code gives them."""
    renamed = {}
    for name, tensor in model.state_dict().items():
        for new, old in (
            ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
            ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
            ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
            ("model.language_model.", "model."),
            ("", ""),
        ):
            if name.startswith(new):
                renamed[old + name.removeprefix(new)] = tensor.clone()
                break
    return renamed


def write_published(folder, *, voco: bool, suffix: str = ".safetensors", with_tower: bool = True, tower="tower"):
    """A tiny LLaVA model as the original code saves it, in two shards, its tower in a folder beside.

    Returns:
        The model that it was made from.
    """
    model = tiny_family("llava").backbone.hf_model.to(torch.bfloat16)
    if voco:
        torch.manual_seed(3)
        model.resize_token_embeddings(VOCO_ID + 1, mean_resizing=False)
        model.get_input_embeddings().weight.data[VOCO_ID] = 0.3 * torch.randn(64)
    config = model.config
    settings = config.text_config.to_dict() | {
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        "vocab_size": VOCO_ID + voco,
        "rope_theta": 10000.0,
        "torch_dtype": "bfloat16",
        "mm_vision_tower": tower,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "pad",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    tiny_tokenizer(chat_template=PLAIN_TEMPLATE, adds_bos=True, extra=("<voco>",) if voco else ()).save_pretrained(
        folder
    )
    weights = published_weights(model)
    towers = {name: tensor for name, tensor in weights.items() if "vision_tower" in name}
    if not with_tower:
        weights = {name: tensor for name, tensor in weights.items() if name not in towers}
    # Old files hold tables that are no weights.
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    write_shards(folder, weights, suffix)
    write_tower(folder / "tower", towers, config.vision_config, suffix)
    return model


def write_shards(folder, weights, suffix):
    names = sorted(weights)
    stem, index = ("model", "model.safetensors") if suffix == ".safetensors" else ("pytorch_model", "pytorch_model.bin")
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        path = folder / f"{stem}-{number:05}-of-00002{suffix}"
        write_weights(path, {name: weights[name] for name in part})
        weight_map |= dict.fromkeys(part, path.name)
    (folder / f"{index}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    if suffix == ".bin":  # the original repository has the projector a second time
        torch.save({"model.mm_projector.0.weight": torch.zeros(1)}, folder / "mm_projector.bin")


def write_tower(folder, weights, config, suffix):
    folder.mkdir()
    config.save_pretrained(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.25, 0.3],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    tower = {name.removeprefix("model.vision_tower.vision_tower."): tensor for name, tensor in weights.items()}
    tower["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    tower["text_model.final_layer_norm.weight"] = torch.ones(4)  # the tower comes from a whole CLIP
    write_weights(folder / f"{'model' if suffix == '.safetensors' else 'pytorch_model'}{suffix}", tower)


def write_weights(path, weights):
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
