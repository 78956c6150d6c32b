"""Which settings of a configuration change what a model computes, though weights and their shapes stay the same."""

from __future__ import annotations

from typing import Any

# What a configuration holds besides what changes the computing: names, versions, training, ends of texts, the head.
_NOT_COMPUTED = frozenset(
    {
        *("architectures", "dtype", "torch_dtype", "transformers_version", "name_or_path", "auto_map", "use_cache"),
        *("tie_word_embeddings", "vocab_size", "max_position_embeddings", "image_seq_length", "pretraining_tp"),
        *("return_dict", "problem_type", "id2label", "label2id", "projection_dim", "chunk_size_feed_forward"),
        *("gradient_checkpointing", "is_encoder_decoder", "use_image_newline_parameter", "image_grid_pinpoints"),
    }
)
_NOT_COMPUTED_PARTS = ("token_id", "token_index", "dropout", "initializer", "output_", "attn_implementation")


def changed_settings(config: Any) -> dict[str, Any]:
    """Return the settings of one part of a model that change what is computed and are not the library's defaults."""
    defaults = type(config)().to_dict()
    return {
        name: _plain(value)
        for name, value in config.to_dict().items()
        if name.strip("_") not in _NOT_COMPUTED
        and not any(part in name for part in _NOT_COMPUTED_PARTS)
        and not name.endswith("_config")  # a part with settings of its own
        and _plain(value) != _plain(defaults.get(name))
    }


def _plain(value: Any) -> Any:
    """Write a setting to JSON and read it again, so that equal settings compare equal."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
