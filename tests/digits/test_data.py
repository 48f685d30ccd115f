"""Captions, colouring, the reference set and the tokenizer's words."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from idx_files import write_mnist

from evalkit import digits
from evalkit.digits import data


def test_there_are_560_distinct_captions_and_every_one_reads_well():
    texts = [prompt.text for prompt in data.PROMPTS]
    assert len(texts) == len(set(texts)) == 560
    assert "a red seven on a blue background" in texts
    assert all(prompt.ink != prompt.background for prompt in data.PROMPTS)
    assert not {name[0] for name in data.COLOURS} & set("aeiou")


def test_the_first_prompts_are_a_fair_sample():
    for k in (10, 50, 100):
        digit_counts = Counter(prompt.digit for prompt in data.PROMPTS[:k])
        assert set(digit_counts.values()) == {k // 10}
    first = data.PROMPTS[:100]
    assert len({p.ink for p in first}) == len({p.background for p in first}) == 8


def test_the_prompt_order_is_fixed():
    assert [p.text for p in data.PROMPTS[:2]] == [
        "a purple two on a yellow background",
        "a black five on a purple background",
    ]


def test_palette_colours_are_far_apart():
    rgb = data.PALETTE_RGB.astype(float)
    distance = np.linalg.norm(rgb[:, None] - rgb[None], axis=2) + 1e9 * np.eye(8)
    assert distance.min() > 140


def test_colourise_paints_paper_and_stroke():
    grey = np.zeros((1, 28, 28), np.uint8)
    grey[0, 10:20, 10:14] = 255
    image = data.colourise(grey, np.array([0]), np.array([2]))
    assert image.shape == (1, 3, 32, 32)
    assert image.dtype == np.uint8
    assert tuple(image[0, :, 0, 0]) == data.PALETTE["blue"]
    assert tuple(image[0, :, 15, 13]) == data.PALETTE["red"]


def test_the_reference_is_deterministic_and_balanced():
    images, captions = data.reference_images()
    again, _ = data.reference_images()
    assert images.shape == (5000, 3, 32, 32)
    assert images.dtype == np.uint8
    assert np.array_equal(images, again)
    assert Counter(c.digit for c in captions) == dict.fromkeys(range(10), 500)
    per_caption = Counter(captions)
    assert len(per_caption) == 560
    assert set(per_caption.values()) == {8, 9}  # 500 = 8 * 56 + 52


def test_the_reference_file_is_plain_and_small():
    grey, labels = data.reference_digits()
    assert grey.shape == (5000, 28, 28)
    assert grey.dtype == labels.dtype == np.uint8
    assert digits.REFERENCE.stat().st_size < 1_500_000


def test_load_mnist_reads_idx_files(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, 7, dtype=np.uint8)
    write_mnist(tmp_path, images, labels)
    read_images, read_labels = data.load_mnist(tmp_path)
    assert np.array_equal(read_images, images)
    assert np.array_equal(read_labels, labels)


def test_load_mnist_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="t10k-images"):
        data.load_mnist(tmp_path)


def test_weights_path_knows_the_models():
    assert digits.weights_path("ldm").name == "ldm"
    with pytest.raises(ValueError, match="unknown model"):
        digits.weights_path("vqgan")


def test_every_caption_word_is_one_token_and_any_text_has_tokens():
    from evalkit.digits.train import tokens

    tokenizer = tokens.build(16)
    assert {len(tokenizer(prompt.text).input_ids) for prompt in data.PROMPTS} == {9}  # 7 words, start and end
    strange = "Quick 42 wörld 🙂"
    ids = tokenizer(strange).input_ids
    assert tokens.vocabulary()[tokens.END] == max(tokens.vocabulary().values())
    assert ids.count(tokens.vocabulary()[tokens.END]) == 1  # nothing became the unknown token
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == strange.lower().replace(" ", "")
