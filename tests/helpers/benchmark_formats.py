"""Two prompts of each benchmark, in its authors' format: written by hand, with nothing of their data."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def _json(file: Path, value: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")
    return file


def _jsonl(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def _csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def _png(file: Path) -> Path:
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 30, 30)).save(file)
    return file


def geneval2(folder: Path) -> list[str]:
    rows = [
        {
            "prompt": "four blue mugs",
            "atom_count": 3,
            "vqa_list": [["How many mugs are in the image?", "four"], ["Are the mugs blue?", "Yes"]],
            "skills": ["count", "attribute"],
        },
        {"prompt": "a fox", "atom_count": 1, "vqa_list": [["Are there any foxes?", "Yes"]], "skills": ["object"]},
    ]
    return [f"benchmark.path={_jsonl(folder / 'geneval2_data.jsonl', rows)}"]


def dpg(folder: Path) -> list[str]:
    def row(item: str, number: int, dependency: str, kind: str, question: str) -> dict[str, Any]:
        text = {"a": "A red chair.", "b": "A painting."}[item]
        broad = kind.partition(" - ")[0]
        return {
            **{"item_id": item, "text": text, "keywords": "", "proposition_id": number, "dependency": dependency},
            **{"category_broad": broad, "category_detailed": kind.partition(" - ")[2], "tuple": f"{kind} (chair)"},
            "question_natural_language": question,
        }

    rows = [
        row("a", 1, "0", "entity - whole", "Is there a chair?"),
        row("a", 2, "1", "attribute - color", "Is the chair red?"),
        row("a", 3, "1,2", "relation - spatial", "Does the red chair stand?"),
        row("b", 1, "0", "global", "Is this a painting?"),
    ]
    return [f"benchmark.path={_csv(folder / 'dpg_bench.csv', rows)}"]


def tifa(folder: Path) -> list[str]:
    shared = {"id": "coco_1", "caption": "A surfer on a beach.", "element": "surfer"}
    rows = [
        {**shared, "question": "is this a surfer?", "choices": ["yes", "no"], "answer": "yes", "element_type": "human"},
        {**shared, "question": "where?", "choices": ["beach", "city"], "answer": "beach", "element_type": "location"},
        {**shared, "id": "d_1", "caption": "A dog.", "question": "a dog?", "choices": ["yes", "no"], "answer": "yes"}
        | {"element_type": "animal"},
    ]
    return [f"benchmark.path={_json(folder / 'tifa_v1.0_question_answers.json', rows)}"]


def genai_bench(folder: Path) -> list[str]:
    rows = {
        "00000": {"id": "00000", "prompt": "A cat to the left of a dog.", "models": {}},
        "00007": {"id": "00007", "prompt": "Three cups, none of them full.", "models": {}},
    }
    _json(folder / "genai_skills.json", {"spatial relation": [0], "counting": [7], "negation": [7], "basic": [0]})
    return [f"benchmark.path={_json(folder / 'genai_image.json', rows)}"]


def t2i_compbench(folder: Path) -> list[str]:
    (folder / "color_val.txt").write_text("a green bench and a blue bowl\n", encoding="utf-8")
    (folder / "shape_val.txt").write_text("a round cookie, a square box and a tall jar\n", encoding="utf-8")
    return [f'benchmark.path="{folder}/{{color,shape}}_val.txt"']


def wise(folder: Path) -> list[str]:
    rows = [
        {"Prompt": "Iron that lay in the rain", "Explanation": "It is rusty", "Category": "Chemistry", "prompt_id": 881}
        | {"Subcategory": "Metal Corrosion"},
        {"Prompt": "Noon in winter", "Explanation": "The sun is low", "Category": "time", "prompt_id": 401}
        | {"Subcategory": "Horizontal time"},
    ]
    return [f"benchmark.path={_json(folder / 'merge.json', rows)}"]


def oneig(folder: Path) -> list[str]:
    shared = {"type": "T, P", "prompt_length": "short", "class": ""}
    rows = [
        {"category": "Portrait", "id": "000", "prompt_en": "A woman in a red coat.", **shared},
        {"category": "General_Object", "id": "000", "prompt_en": "Two cups.", **shared},
        {"category": "Text_Rendering", "id": "000", "prompt_en": "A sign that says stop.", **shared},
    ]
    asked = {"1": "Is there a woman?", "2": "Does she wear a coat?", "3": "Is the coat red?"}
    graph = {"question": json.dumps(asked), "dependency": json.dumps({"1": [0], "2": [1], "3": [2]})}
    _json(folder / "scripts/alignment/Q_D/human.json", {"000": graph})
    cups = {"question": {"1": "Are there cups?", "2": "Are there two?"}, "dependency": {"1": [0], "2": [1]}}
    _json(folder / "scripts/alignment/Q_D/object.json", {"000": cups})
    return [f"benchmark.path={_csv(folder / 'OneIG-Bench.csv', rows)}"]


def tiif(folder: Path) -> list[str]:
    for kind, text in (("color+2d", "The red mug is left of the jar."), ("negation", "A room without a chair.")):
        prompts = [{"type": kind, "short_description": text, "long_description": f"{text} Slowly."}]
        _jsonl(folder / f"testmini_prompts/{kind}_prompts.jsonl", prompts)
        asked = {"type": kind, "yn_question_list": ["Is there a mug?  ", "Is there a chair?"]}
        answers = {"yn_answer_list": ["Yes", "no"]}
        _jsonl(folder / f"testmini_eval_prompts/{kind}_eval_prompts.jsonl", [asked | answers])
    return [f"benchmark.path={folder}/testmini_prompts/*_prompts.jsonl"]


def unigenbench(folder: Path) -> list[str]:
    def points(*pairs: tuple[str, str]) -> str:
        names, texts = zip(*pairs, strict=True)
        return json.dumps({"Subjects": "Animal", "Testpoints": names, "Testpoint Description": texts})

    rows = [
        {
            "index": 0,
            "prompt_en": "Two pandas in ink.",
            "sub_dims_en": points(("Style", "ink"), ("Attribute - Quantity", "two")),
        },
        {"index": 1, "prompt_en": "A sad king.", "sub_dims_en": points(("Attribute - Expression", "sad"))},
    ]
    return [f"benchmark.path={_csv(folder / 'test_prompts_en.csv', rows)}"]


def corebench(folder: Path) -> list[str]:
    for file, kind, main in (("C-MI", "Multi-Instance", "Composition"), ("R-LR", "Logical Reasoning", "Reasoning")):
        asked = [{"question": "Is there a pot?", "tags": ["0-hop"]}, {"question": "Is it red?", "tags": ["multi-hop"]}]
        row = {"Main Class": main, "Sub Class": kind, "Prompt": f"A pot of {kind}.", "Checklist": asked}
        _json(folder / f"{file}.json", {f"{file}-001": row})
    return [f"benchmark.path={folder}/*.json"]


def gedit(folder: Path) -> list[str]:
    rows = [
        {"key": "k1", "task_type": "color_alter", "instruction": "Make the car red.", "instruction_language": "en"},
        {"key": "k2", "task_type": "style_change", "instruction": "Make it a sketch.", "instruction_language": "en"},
        {"key": "k3", "task_type": "style_change", "instruction": "...", "instruction_language": "cn"},
    ]
    for row in rows:
        _png(folder / f"{row['key']}.png")
        row["file_name"] = f"{row['key']}.png"
    return [f"benchmark.path={_jsonl(folder / 'metadata.jsonl', rows)}"]


def imgedit(folder: Path) -> list[str]:
    _png(folder / "originals/animal/1.jpg")
    _png(folder / "originals/animal/2.jpg")
    rows = {
        "1082": {"id": "animal/1.jpg", "prompt": "Make its fur white.", "edit_type": "adjust"},
        "1083": {"id": "animal/2.jpg", "prompt": "Remove the fence.", "edit_type": "remove"},
    }
    return [f"benchmark.path={_json(folder / 'basic_edit.json', rows)}", f"benchmark.images={folder / 'originals'}"]


FORMATS = {
    **{"geneval2": geneval2, "dpg": dpg, "tifa": tifa, "genai_bench": genai_bench, "t2i_compbench": t2i_compbench},
    **{"wise": wise, "oneig": oneig, "tiif": tiif, "unigenbench": unigenbench, "corebench": corebench},
    **{"gedit": gedit, "imgedit": imgedit},
}
"""By benchmark what writes its tiny file into a folder, and the words of the command line that name it."""
