"""Tiny vision-language models with random weights, as people would save them: Qwen2.5-VL, Idefics3 (SmolVLM's), LLaVA.

Their tokenizers know one token per byte, and a few words ("yes", " Yes", "no" ...) that are one token each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import zoo_text as text
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

WORDS = ("yes", "Yes", " Yes", "no", "No", " No")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}IMAGE{% else %}{{ p['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
BARE = TEMPLATE.replace("IMAGE", "<|image_pad|>")


def merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The bytes' vocabulary with the words' pieces, and what is merged to them."""
    vocab, pairs = text.byte_vocab(), []
    for word in WORDS:
        piece = word[0].replace(" ", "Ġ")
        for letter in word[1:]:
            if piece + letter not in vocab:
                pairs.append((piece, letter))
                vocab[piece + letter] = len(vocab)
            piece += letter
    return vocab, pairs


SIZE = len(merges()[0])


def fast_tokenizer() -> PreTrainedTokenizerFast:
    """Of the other classes: as Qwen's, by the tokenizers library alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab, pairs = merges()
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<|endoftext|>"}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, model_max_length=4096)
    made.add_special_tokens({"additional_special_tokens": text.SPECIAL[3:]})
    return made


def qwen() -> tuple[Any, Any]:
    """Qwen2.5-VL."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
    )
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    words = text.lm(dict, vocab_size=SIZE)
    words["rope_scaling"] = {"mrope_section": [2, 2, 4], "rope_type": "default", "type": "default"}
    vision = {"depth": 1, "hidden_size": text.WIDTH, "intermediate_size": 16, "num_heads": 2}
    vision |= {"out_hidden_size": text.WIDTH}
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=words, vision_config=vision, **text._marks())
    )
    vocab, pairs = merges()
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=pairs, pad_token="<|endoftext|>", model_max_length=4096)
    tokenizer.add_special_tokens({"additional_special_tokens": text.SPECIAL[4:]})
    images = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
    return model, Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=MARKED)


def idefics3() -> tuple[Any, Any]:
    """Idefics3, whose class SmolVLM's checkpoints have."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor, Idefics3Processor

    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision |= {"image_size": 32, "patch_size": 8}
    tokenizer = fast_tokenizer()
    images = Idefics3ImageProcessor(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False
    )
    processor = Idefics3Processor(
        images, tokenizer, image_seq_len=4, chat_template=TEMPLATE.replace("IMAGE", "<image>")
    )
    words = text.lm(dict, vocab_size=len(tokenizer), model_type="llama")
    token = tokenizer.convert_tokens_to_ids("<image>")
    config = Idefics3Config(vision_config=vision, text_config=words, image_token_id=token, scale_factor=2)
    return Idefics3ForConditionalGeneration(config), processor


def llava() -> tuple[Any, Any]:
    """LLaVA 1.5."""
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"intermediate_size": 16, "image_size": 32, "patch_size": 8, "projection_dim": 16}
    words = text.lm(dict, vocab_size=SIZE, model_type="llama")
    config = LlavaConfig(
        vision_config=vision,
        text_config=words,
        image_token_id=text.byte_vocab()["<|image_pad|>"],
        vision_feature_layer=-2,
    )
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    processor = LlavaProcessor(
        images,
        fast_tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<|image_pad|>",
        chat_template=BARE,
    )
    return LlavaForConditionalGeneration(config), processor


MAKERS: dict[str, Callable[[], tuple[Any, Any]]] = {"qwen2_5_vl": qwen, "idefics3": idefics3, "llava": llava}


def save(kind: str, folder: Path, *, seed: int = 0, scale: float = 8.0) -> Path:
    """A folder as save_pretrained writes it; weights are drawn wide, so that answers depend on what is seen."""
    torch.manual_seed(seed)
    model, processor = MAKERS[kind]()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.mul_(scale)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
