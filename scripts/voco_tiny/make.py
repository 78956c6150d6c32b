"""Make voco-tiny from nothing: its shape, its tokenizer, and weights from a fixed seed that have learned nothing.

    python scripts/voco_tiny/make.py [FOLDER]           default: voco_video/assets/voco-tiny

The files are ordinary Hugging Face files; training starts from them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from voco_video.checkpoint.finding import ASSETS
from voco_video.checkpoint.folder import save_voco_model
from voco_video.model.backbone import Backbone
from voco_video.model.families import ImageSettings, PromptTemplate
from voco_video.model.voco import VocoModel
from voco_video.shapes.samples import MovingShapes
from voco_video.video.scaling import Fit

SEED, NUM_VOCO_TOKENS, VOCABULARY_SIZE = 0, 8, 512
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<image>"]
ABOUT = "voco-tiny knows nothing but MovingShapes: coloured shapes that stand, move, appear and disappear."
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} ASSISTANT:"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)


def conversations(num_samples: int = 2000) -> Iterator[str]:
    """Text as the model will read it, from the image and the video stage."""
    for stage in ("image", "video"):
        stream = MovingShapes(seed=SEED, stage=stage, num_frames=1, size=16)
        for index in range(num_samples):
            for turn in stream.sample(index).turns:
                yield f"USER: {turn.question} ASSISTANT: {turn.answer}"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text goes in and comes out, the words of MovingShapes are one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(conversations(), trainer)
    pad, bos, eos, image = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        additional_special_tokens=[image],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_config() -> LlavaConfig:
    """LLaVA's shape, small: 64 x 64 pixels in patches of 8 give N = 64 vision tokens."""
    vision = CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4, image_size=64, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=16384,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=SPECIAL_TOKENS.index("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def make_model() -> VocoModel:
    """The untrained model, the same on every machine."""
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    newline = tuple(tokenizer("\n", add_special_tokens=False).input_ids)
    llava = LlavaForConditionalGeneration(make_config()).to(torch.bfloat16)
    backbone = Backbone(
        llava.eval(),
        tokenizer,
        ImageSettings(Fit(height=64, width=64, mode="crop"), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        PromptTemplate(frame_before_ids=(1,), frame_after_ids=newline, text_before_ids=newline),
    )
    embeds = torch.randn(NUM_VOCO_TOKENS, backbone.hidden_size) * 0.02
    return VocoModel(backbone, embeds, trained=False, about=ABOUT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=ASSETS / "voco-tiny")
    folder = parser.parse_args().folder
    model = make_model()
    save_voco_model(model, folder)
    num_parameters = sum(p.numel() for p in model.parameters())
    print(f"{folder}: {num_parameters / 1e6:.2f} M parameters, fingerprint {model.fingerprint()[:12]}")
