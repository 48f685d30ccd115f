"""Tiny text encoders with random weights, and tokenizers of letters and bytes, as the large pipelines have them."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
)

WIDTH = 32  # of all text embeddings here
SPECIAL = ["<pad>", "<bos>", "<eos>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPECIAL += ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<think>", "</think>"]
# One message after another; a content is a text, or parts of which some are texts.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_vocab() -> dict[str, int]:
    return {piece: i for i, piece in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL])}


VOCAB = 256 + len(SPECIAL)


def byte_tokenizer(**kwargs: Any) -> PreTrainedTokenizerFast:
    """One token per byte."""
    tokenizer = Tokenizer(models.BPE(vocab=byte_vocab(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 257)])
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<|endoftext|>"}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**names, "model_max_length": 512, **kwargs})
    made.add_special_tokens({"additional_special_tokens": SPECIAL[3:]})
    made.chat_template = TEMPLATE
    return made


def qwen_tokenizer() -> Qwen2Tokenizer:
    """One token per byte, with Qwen's marks."""
    made = Qwen2Tokenizer(vocab=byte_vocab(), merges=[], pad_token="<|endoftext|>", model_max_length=4096)
    made.add_special_tokens({"additional_special_tokens": SPECIAL[4:]})
    made.chat_template = TEMPLATE
    return made


def lm(config: Any, **kwargs: Any) -> Any:
    """The configuration of a decoder of two layers."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCAB, "max_position_embeddings": 4096}
    return config(**{**sizes, "pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 258, **kwargs})


def gemma2() -> Gemma2Model:
    return Gemma2Model(lm(Gemma2Config)).eval()


def qwen3(layers: int = 2) -> Qwen3Model:
    return Qwen3Model(lm(Qwen3Config, num_hidden_layers=layers)).eval()


def qwen25_vl(layers: int = 2) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = lm(dict, num_hidden_layers=layers)
    text["rope_scaling"] = {"mrope_section": [2, 2, 4], "rope_type": "default", "type": "default"}
    vision = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_marks())
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen3_vl_config(layers: int = 2) -> Any:
    from transformers import Qwen3VLConfig

    text = lm(dict, num_hidden_layers=layers)
    text["rope_scaling"] = {"mrope_section": [2, 2, 4], "rope_type": "default", "type": "default"}
    vision = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    vision |= {"deepstack_visual_indexes": [0]}
    return Qwen3VLConfig(text_config=text, vision_config=vision, **_marks())


def qwen3_vl(layers: int = 2) -> Any:
    from transformers import Qwen3VLModel

    return Qwen3VLModel(qwen3_vl_config(layers)).eval()


def qwen_processor() -> Any:
    """Qwen2.5-VL's: its tokenizer, next to what prepares images."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    parts = (Qwen2VLImageProcessor(), qwen_tokenizer(), Qwen2VLVideoProcessor())
    return Qwen2_5_VLProcessor(*parts, chat_template=TEMPLATE)


def qwen3_processor() -> Any:
    """Qwen3-VL's."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    parts = (Qwen2VLImageProcessor(), qwen_tokenizer(), Qwen3VLVideoProcessor())
    return Qwen3VLProcessor(*parts, chat_template=TEMPLATE)


def mistral3() -> Any:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    words = lm(dict) | {"model_type": "mistral", "sliding_window": None}
    vision = {"model_type": "pixtral", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"intermediate_size": 16, "image_size": 32, "patch_size": 8, "num_channels": 3}
    marks = {"image_token_index": byte_vocab()["<|image_pad|>"], "vision_feature_layer": -1, "spatial_merge_size": 2}
    config = Mistral3Config(text_config=words, vision_config=vision, **marks)
    return Mistral3ForConditionalGeneration(config).eval()


def pixtral_processor() -> Any:
    from transformers import PixtralImageProcessor, PixtralProcessor

    marks = {
        "image_token": "<|image_pad|>",
        "image_break_token": "<|vision_start|>",
        "image_end_token": "<|vision_end|>",
    }
    return PixtralProcessor(PixtralImageProcessor(), byte_tokenizer(), chat_template=TEMPLATE, **marks)


def _marks() -> dict[str, int]:
    ids = byte_vocab()
    return {
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
    }


def bert() -> BertModel:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertModel(BertConfig(vocab_size=64, max_position_embeddings=128, **sizes)).eval()


def bert_tokenizer() -> BertTokenizer:
    letters = [chr(97 + i) for i in range(26)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters)]
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, model_max_length=77)
