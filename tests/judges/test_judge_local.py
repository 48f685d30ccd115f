"""Judges of transformers in this process: tiny models of three classes, against the models called by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny_vlms
import torch
from numpy.typing import NDArray
from PIL import Image

from evalkit.errors import ConfigError
from evalkit.judges.asker import Item
from evalkit.judges.local import LocalVlm, marks, spelt

QUESTION = "Is it a red seven?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("vlms")
    return {kind: tiny_vlms.save(kind, root / kind, seed=1) for kind in tiny_vlms.MAKERS}


def pictures(count: int) -> list[NDArray[np.uint8]]:
    """u8 [H,W,3] each, of several sizes."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40 + 8 * i, 50, 3), dtype=np.uint8) for i in range(count)]


def loaded(folder: Path, **options: object) -> LocalVlm:
    asker = LocalVlm(str(folder), **{"dtype": "float32", "max_new_tokens": 8, **options})  # type: ignore[arg-type]
    asker.check()
    asker.load("cpu")
    return asker


def by_hand(folder: Path, image: NDArray[np.uint8], text: str) -> tuple[torch.Tensor, str, object]:
    """The first token's probabilities f64 [V], the greedy answer of 8 tokens, step by step, and the tokenizer."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).float().eval()
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    written = processor.apply_chat_template(asked, add_generation_prompt=True)
    given = processor(text=[written], images=[[Image.fromarray(image)]], return_tensors="pt")
    fixed = {name: value for name, value in given.items() if name.startswith(("pixel", "image"))}
    ids, first, answer = given["input_ids"], None, []
    with torch.inference_mode():
        for _ in range(8):
            kinds = (
                {"mm_token_type_ids": (ids == model.config.image_token_id).long()} if "image_grid_thw" in fixed else {}
            )
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **fixed, **kinds).logits[0, -1].double()
            first = logits.softmax(-1) if first is None else first
            token = int(logits.argmax())
            if token == processor.tokenizer.eos_token_id:
                break
            answer.append(token)
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
    assert first is not None
    return first, processor.tokenizer.decode(answer, skip_special_tokens=True), processor.tokenizer


@pytest.mark.parametrize("kind", tiny_vlms.MAKERS)
def test_first_token_and_text_are_the_models_by_hand(kind: str, folders: dict[str, Path]) -> None:
    images = pictures(3)
    texts = [QUESTION + " Look again." * i for i in range(3)]  # of several lengths: padded
    asker = loaded(folders[kind])
    items = [Item((image,), text, first_token=True, max_tokens=1) for image, text in zip(images, texts, strict=True)]
    written = asker.ask([Item((image,), text) for image, text in zip(images, texts, strict=True)])
    seen = []
    for image, text, answer, words in zip(images, texts, asker.ask(items), written, strict=True):
        probabilities, said, tokenizer = by_hand(folders[kind], image, text)
        ids = spelt(tokenizer)
        assert {tokenizer.decode([one]) for one in ids} == {*tiny_vlms.WORDS}  # type: ignore[attr-defined]
        assert answer.first is not None
        for one in ids:
            log = answer.first[tokenizer.decode([one])]  # type: ignore[attr-defined]
            assert log == pytest.approx(float(probabilities[one].log()), abs=1e-4)
        yes = sum(math.exp(log) for token, log in answer.first.items() if token.strip().lower() == "yes")
        seen.append(yes)
        assert (words.text, answer.received) == (said, 1)
    assert len({round(yes, 6) for yes in seen}) == 3  # the image and the text are seen


@pytest.mark.parametrize("kind", tiny_vlms.MAKERS)
def test_an_answer_does_not_depend_on_its_neighbours(kind: str, folders: dict[str, Path]) -> None:
    images = pictures(3)
    items = [Item((images[0],), QUESTION), Item((images[1], images[2]), "Which is better, the first or the second?")]
    items += [Item((images[2],), "What is it?", max_tokens=3), Item((images[1],), QUESTION, first_token=True)]
    asker = loaded(folders[kind])
    together, alone = asker.ask(items), [asker.ask([item])[0] for item in items]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.sent for answer in together] == [answer.sent for answer in alone]
    assert together[2].received <= 3


def test_drawn_answers_are_the_questions_own(folders: dict[str, Path]) -> None:
    image = pictures(1)[0]
    asker = loaded(folders["llava"], temperature=1.0, max_new_tokens=1)
    items = [Item((image,), QUESTION, repeat=repeat) for repeat in range(400)]
    answers = [answer.text for answer in asker.ask(items)]
    assert answers[5:8] == [answer.text for answer in asker.ask(items[5:8])]
    assert len(set(answers)) > 20


def test_draws_have_the_probabilities_of_the_softmax() -> None:
    from evalkit.judges.local import _Drawn

    items = [Item((np.zeros((2, 2, 3), np.uint8),), "?", repeat=repeat) for repeat in range(4000)]
    scores = torch.tensor([[0.0, 1.0, 2.0]]).repeat(4000, 1)
    counts = torch.bincount(_Drawn(items, 0.5)(torch.zeros(4000, 1), scores).argmax(1), minlength=3) / 4000
    assert counts.tolist() == pytest.approx((torch.tensor([0.0, 2.0, 4.0]).softmax(0)).tolist(), abs=0.03)


def test_marks_of_the_chat_cannot_end_a_question(folders: dict[str, Path]) -> None:
    asker, image = loaded(folders["qwen2_5_vl"]), pictures(1)[0]
    texts = ("Is it a seven?", "Is it<|im_<|im_end|>end|> a <|image_pad|>seven?")
    plain, marked = (Item((image,), text) for text in texts)
    assert asker.ask([plain])[0].text == asker.ask([marked])[0].text
    known = marks(asker._processor)
    assert {"<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>"} <= set(known)
    assert all(mark.strip() for mark in known)


def test_identity_tells_weights_and_decoding(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["idefics3"]
    asker = LocalVlm(str(folder))
    other = tiny_vlms.save("idefics3", tmp_path / "other", seed=2)
    changed = [
        LocalVlm(str(other)),
        LocalVlm(str(folder), dtype="float32"),
        LocalVlm(str(folder), max_new_tokens=5),
        LocalVlm(str(folder), temperature=0.5),
        LocalVlm(str(folder), system="Be strict."),
        LocalVlm(str(folder), processor={"size": {"longest_edge": 64}}),
    ]
    identities = [json.dumps(each.identity(), sort_keys=True) for each in [asker, *changed]]
    assert len(set(identities)) == len(identities)
    assert json.dumps(LocalVlm(str(folder), batch_size=1).identity(), sort_keys=True) == identities[0]
    assert asker.label().startswith("idefics3@")
    assert asker.label() != changed[0].label().replace("other@", "idefics3@")


def test_refused_in_one_line_before_any_sample(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"asker\.dtype=int8: Choices: bfloat16"):
        LocalVlm("x", dtype="int8")
    with pytest.raises(ConfigError, match=r"asker\.temperature=-1"):
        LocalVlm("x", temperature=-1)
    with pytest.raises(ConfigError, match="is no folder"):
        LocalVlm(str(tmp_path / "missing")).check()
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(ConfigError, match="no weights in safetensors"):
        LocalVlm(str(tmp_path)).check()
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="a model of texts alone"):
        LocalVlm(str(tmp_path)).check()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1-of-2.safetensors"}}')
    with pytest.raises(ConfigError, match=r"lacks model-1-of-2\.safetensors"):
        LocalVlm(str(tmp_path)).check()


def test_a_model_that_was_not_trained_to_answer_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(folders["llava"], tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    asker = LocalVlm(str(folder))
    asker.check()
    with pytest.raises(ConfigError, match="has no chat template"):
        asker.load("cpu")


def test_load_and_unload(folders: dict[str, Path]) -> None:
    asker = loaded(folders["llava"], dtype="bfloat16")
    assert asker._model.dtype == torch.bfloat16
    item = Item((pictures(1)[0],), QUESTION)
    text = asker.ask([item])[0].text
    asker.unload()
    assert asker._model is None
    asker.load("cpu")
    assert asker.ask([item])[0].text == text


def test_the_judge_scores_by_it_and_asks_nothing_twice(folders: dict[str, Path], tmp_path: Path) -> None:
    from evalkit.extractors.judge import Judge
    from evalkit.judges.place import AnswerPlace

    images, prompts = pictures(5), [f"a red {i}" for i in range(5)]
    asker = {"_target_": "evalkit.judges.LocalVlm", "path": str(folders["qwen2_5_vl"]), "batch_size": 2}
    text = 'Does this figure show "{prompt}"? Please answer yes or no.'
    judge = Judge({**asker, "dtype": "float32"}, way="yes_probability", question=text, name="judge_local")
    judge.keep_in(AnswerPlace(tmp_path))
    judge.check()
    judge.load("cpu")
    found = judge(images, prompts, ["score", "calls"])
    for image, prompt, score in zip(images, prompts, found["score"][:, 0].tolist(), strict=True):
        probabilities, _, tokenizer = by_hand(folders["qwen2_5_vl"], image, text.replace("{prompt}", prompt))
        ids = [one for one in spelt(tokenizer) if "yes" in tokenizer.decode([one]).lower()]  # type: ignore[attr-defined]
        assert score == pytest.approx(float(probabilities[ids].sum()), rel=1e-4)
    assert judge.label().startswith("judge_local:qwen2_5_vl@")
    judge.unload()
    judge.load("cpu")
    judge.asker.ask = None  # type: ignore[assignment,method-assign]
    assert torch.equal(judge(images, prompts, ["score"])["score"], found["score"])


def test_of_a_repository_the_commit_is_the_identity(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache of the hub as `hf download` leaves it, on a machine without a network."""
    import shutil

    import huggingface_hub.constants as constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    entry = tmp_path / "models--org--tiny-vlm"
    shutil.copytree(folders["llava"], entry / "snapshots" / commit)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asker = loaded(Path("org/tiny-vlm"))
    assert asker.identity()["model"] == {"hub": "org/tiny-vlm", "revision": "main", "commit": commit}
    assert asker.label() == f"tiny-vlm@{commit[:8]}"
    item = Item((pictures(1)[0],), QUESTION)
    assert asker.ask([item])[0].text == loaded(folders["llava"]).ask([item])[0].text
    with pytest.raises(ConfigError, match=r"'org/other' .* is not in the cache, and HF_HUB_OFFLINE is set"):
        LocalVlm("org/other").check()
