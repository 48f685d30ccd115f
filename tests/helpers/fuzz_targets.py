"""Every reader of files and answers that others made, with good inputs to start from."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fuzz import Target
from fuzz_attributes import attributes
from fuzz_benchmarks import benchmarks
from fuzz_judges import completions, known_answers, questions, stored_answers
from fuzz_serve import score_requests, scorer_answers
from fuzz_votes import vote_files
from fuzz_weights import keras_files, latents, weights
from icc import cmyk_profile, grey_profile, rgb_profile
from parity_runs import write_pairs
from pictures import picture
from PIL import Image, PngImagePlugin
from report_runs import write_run

from evalkit.data import codec
from evalkit.data.moments import read_moments, write_moments
from evalkit.data.open import open_images
from evalkit.data.png_parameters import read_parameters
from evalkit.data.records import ReadOptions
from evalkit.models.base import Request
from evalkit.prompts.sets import TablePrompts, TextPrompts

A1111 = "a red fox\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Model: x, Size: 8x8"
COMFY = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 5,
            "steps": 20,
            "cfg": 8.0,
            "sampler_name": "euler",
            "positive": ["6", 0],
            "negative": ["7", 0],
            "model": ["4", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
}
WORKFLOW = {"6": {"class_type": "CLIPTextEncode", "inputs": {"text": "{{prompt}}", "seed": "{{seed}}"}}}


def saved(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(picture(0, 16))).save(buffer, kind, **options)
    return buffer.getvalue()


def png_with(**texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    return saved("PNG", pnginfo=info)


def _read_all(place: Path, **options: Any) -> None:
    images = open_images(place, ReadOptions(mixed_sizes=True, **options))
    images.read(range(len(images)))
    images.headers(), images.prompts, images.categories, images.digest, images.unlike_metadata()


# Images --------------------------------------------------------------------------------------------------------------


def images() -> Target:
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = {
        "a.png": png_with(parameters=A1111), "b.png": saved("PNG", Image.fromarray(picture(1, 16)).quantize(8)),
        "c.png": saved("PNG", Image.fromarray((picture(2, 16)[..., 0].astype(np.uint16)) * 257)),
        "d.jpg": saved("JPEG", exif=exif, icc_profile=rgb_profile(), quality=80), "e.webp": saved("WEBP", exif=exif),
        "f.avif": saved("AVIF") if "AVIF" in codec.known_formats() else saved("PNG"), "g.bmp": saved("BMP"),
        "h.tif": saved("TIFF", compression="tiff_lzw"), "i.gif": saved("GIF"), "j.ppm": saved("PPM"),
        "k.jpg": saved("JPEG", Image.new("CMYK", (16, 16), (9, 99, 0, 3)), icc_profile=cmyk_profile()),
        "l.tif": saved("TIFF", Image.new("I;16", (9, 9), 777)), "m.png": saved("PNG", icc_profile=rgb_profile()),
        "n.gif": saved("GIF", save_all=True, append_images=[Image.fromarray(picture(3, 16))]),
    }  # fmt: skip

    def read(path: Path) -> None:
        codec.inspect(path)
        codec.decode(path)
        codec.decode(path, srgb=True)

    return Target("images", seeds, read)


def profiles() -> Target:
    def read(path: Path) -> None:
        for mode in ("RGB", "L", "CMYK"):
            data = saved("TIFF", Image.new(mode, (4, 4)), icc_profile=path.read_bytes() or b"x")
            name = codec.inspect(data).profile
            if name is not None and not name.startswith("damaged"):
                codec.decode(data, srgb=True)

    seeds = {"a.icc": rgb_profile(), "b.icc": grey_profile(), "c.icc": cmyk_profile()}
    return Target("colour profiles", seeds, read)


def png_texts() -> Target:
    def read(path: Path) -> None:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        read_parameters({"parameters": text})
        read_parameters({"prompt": text, "workflow": text})

    return Target("PNG texts", {"a.txt": A1111.encode(), "b.json": json.dumps(COMFY).encode()}, read, text=True)


FOLDER: dict[str, bytes] = {
    "0.png": png_with(parameters=A1111), "1.png": png_with(prompt=json.dumps(COMFY)), "2.jpg": saved("JPEG"),
    "3.webp": saved("WEBP"), "0.txt": b"a red fox", "2.json": b'{"caption": "two foxes"}', "1.cls": b"7",
    "0_mask.png": saved("PNG"), "._0.png": b"\0\5\26\7",
}  # fmt: skip
SIDECARS = {
    "metadata.jsonl": b'{"file_name": "0.png", "prompt": "a fox", "category": "x", "sha256": "ab"}\n'
    b'{"file_name": "1.png", "text": "b"}\n',
    "metadata.csv": b"file_name,prompt,category\n0.png,a fox,x\n1.png,two foxes,y\n",
    "dataset.json": b'{"labels": [["0.png", 3], ["1.png", 4], ["2.jpg", [0.0, 1.0]]]}',
    "0.txt": b"a red fox\n", "0.json": b'{"prompt": "a fox", "seed": 1}', "1.cls": b"7",
}  # fmt: skip


def folder() -> Target:
    return Target("folder", FOLDER, lambda path: _read_all(path.parent, on_error="skip"))


def sidecars() -> Target:
    def read(path: Path) -> None:
        place = path.parent
        for name, data in FOLDER.items():
            if name[-4:] in (".png", ".jpg", "webp") and not (place / name).exists():
                (place / name).write_bytes(data)
        others = {
            place / name: (place / name).read_bytes()
            for name in SIDECARS
            if (place / name) != path and (place / name).exists()
        }
        for other in others:
            other.unlink()
        try:
            _read_all(place)
        finally:
            for other, data in others.items():
                other.write_bytes(data)

    return Target("sidecars", SIDECARS, read, text=True)


def archives(kind: str) -> Target:
    files = {name: data for name, data in FOLDER.items() if name != "0.txt"} | {
        "metadata.jsonl": SIDECARS["metadata.jsonl"]
    }
    seeds = {}
    for number, method in enumerate((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)):
        buffer = io.BytesIO()
        if kind == "zip":
            with zipfile.ZipFile(buffer, "w", method) as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
        else:
            with tarfile.open(fileobj=buffer, mode="w", format=(tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)[number]) as tar:
                for name, data in files.items():
                    info = tarfile.TarInfo(name if name != "2.jpg" else "x" * 150 + "/2.jpg")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        seeds[f"{number}.{kind}"] = buffer.getvalue()
    return Target(kind, seeds, lambda path: _read_all(path, on_error="skip"))


def parquet(folder: Path) -> Target:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "image": [{"bytes": FOLDER[n], "path": n} for n in ("0.png", "1.png", "2.jpg")],
        "text": ["a", None, "c"],
        "label": [1, 2, 3],
    }
    pq.write_table(pa.table(columns), folder / "a.parquet")
    pq.write_table(
        pa.table({"image": [saved("PNG")] * 3, "captions": [["a", "b"], [], None]}),
        folder / "b.parquet",
        compression="none",
    )
    return Target(
        "parquet",
        {n: (folder / n).read_bytes() for n in ("a.parquet", "b.parquet")},
        lambda path: _read_all(path, on_error="skip"),
    )


# Arrays --------------------------------------------------------------------------------------------------------------


def arrays(folder: Path) -> Target:
    pixels = np.stack([picture(i, 8) for i in range(4)])
    np.save(folder / "a.npy", pixels)
    np.savez(folder / "b.npz", arr_0=pixels, arr_1=np.arange(4), mu=np.zeros(2), sigma=np.eye(2))
    np.savez_compressed(folder / "c.npz", arr_0=pixels.astype(np.float32))
    seeds = {name: (folder / name).read_bytes() for name in ("a.npy", "b.npz", "c.npz")}
    return Target("npy and npz", seeds, _read_all)


def statistics(folder: Path) -> Target:
    x = np.random.default_rng(0).standard_normal((20, 5))
    about: dict[str, Any] = {"n": 20, "features": "inception/pool3", "extractor": {"network": "x", "sizes": [1, 2]}}
    write_moments(folder / "a.npz", x.mean(0), np.cov(x, rowvar=False), **about)
    np.savez_compressed(
        folder / "b.npz", mu=x.mean(0), sigma=np.cov(x, rowvar=False), mu_s=np.zeros(2), sigma_s=np.eye(2)
    )
    return Target("stats npz", {n: (folder / n).read_bytes() for n in ("a.npz", "b.npz")}, read_moments)


# Prompts, results, configurations ------------------------------------------------------------------------------------


def prompt_tables() -> Target:
    coco = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"id": 2, "image_id": 1, "caption": "a fox"}]}
    karpathy = {"images": [{"filename": "1.jpg", "split": "test", "sentences": [{"raw": "a fox", "sentid": 1}]}]}
    seeds = {
        "a.csv": b'prompt,category\n"a ""red"" fox",x\nb,y\n', "b.tsv": b"prompt\tcategory\na fox\tx\n",
        "c.jsonl": b'{"prompt": "a", "category": "x"}\n{"prompt": "b", "category": "y"}\n', "d.txt": b"a fox\n\ntwo\n",
        "e.json": json.dumps(coco).encode(), "f.json": json.dumps(karpathy).encode(), "g.json": b'["a fox", "two"]',
        "h.json": b'{"1": {"prompt": "a"}, "2": {"prompt": "b"}}',
    }  # fmt: skip

    def read(path: Path) -> None:
        if path.suffix == ".txt":
            TextPrompts(path)
        else:
            TablePrompts(path)

    return Target("prompt tables", seeds, read, text=True)


def results(folder: Path) -> Target:
    from evalkit.gate.baseline import EarlierRun
    from evalkit.report.page import make_page
    from evalkit.report.run_folder import Run

    run = write_pairs(write_run(folder))
    make_page(Run.open(run), "0" * 32)  # matplotlib makes its folders when it is first used
    names = ("results.json", "samples.csv", "categories.csv", "nearest.csv", "thumbnails.json", "parity.json")

    def read(path: Path) -> None:
        EarlierRun.load(str(path.parent), "gate.x")
        make_page(Run.open(path.parent), "0" * 32)

    return Target(
        "results", {name: (run / name).read_bytes() for name in names if (run / name).exists()}, read, text=True
    )


def past_runs(folder: Path) -> Target:
    """What the verbs over many runs read: results.json, samples.csv, previous.json."""
    import many_runs

    from evalkit.history.compare import compare_runs
    from evalkit.history.previous import write_previous
    from evalkit.history.registry import Registry, read_run
    from evalkit.results.previous import read_previous
    from evalkit.view.samples import samples_of

    first, run = (many_runs.write_run(folder / f"week{week:02d}", week) for week in (5, 6))
    write_previous(read_run(run / "results.json"), "auto")
    before = read_run(first / "results.json")

    def read(path: Path) -> None:
        read_previous(path.with_name("previous.json"))
        for past in Registry.read(path.parent).runs:
            samples_of(past)
            compare_runs(before, past)

    names = ("results.json", "samples.csv", "previous.json")
    return Target("past runs", {name: (run / name).read_bytes() for name in names}, read, text=True)


def gates() -> Target:
    """A gate's YAML, as `config.resolve` gives it to the gate."""
    import yaml
    from gate_fakes import cell

    from evalkit.errors import ConfigError
    from evalkit.gate.rules import make_gates

    rules: list[dict[str, Any]] = [{"metric": "fid", "max": 12}, {"metric": "is", "min": 3, "where": {"model": "a"}}]
    rules.append({"metric": "fid", "within": {"baseline": "a", "margin": "2%"}, "samples": 100})
    rules.append({"metric": "is", "statistic": "share_below(3)", "max": 0.1, "by": "value"})
    waivers = [{"metric": "fid", "reason": "known", "until": "2030-01-01"}]

    def read(path: Path) -> None:
        try:
            option = yaml.safe_load(path.read_bytes())
        except (yaml.YAMLError, ValueError, RecursionError):  # Hydra reads it, which the target "config" tries
            raise ConfigError("no YAML") from None
        make_gates({"x": option}, [cell("a"), cell("b")], {"fid": None, "is": None})

    return Target("gate files", {"a.yaml": json.dumps({"rules": rules, "waivers": waivers}).encode()}, read, text=True)


def config() -> Target:
    from evalkit.config.compose import compose, resolve

    model = b"mine:\n  _target_: evalkit.models.folder.FolderModel\n  path: x\n  where: {sampler: Euler a}\n"
    metric = b"mine:\n  _target_: evalkit.metrics.psnr.Psnr\n"

    def read(path: Path) -> None:
        group = path.parent.name
        resolve(compose([f"{group}=[mine]"], str(path.parent.parent)))

    return Target("config", {"model/mine.yaml": model, "metric/mine.yaml": metric}, read, text=True)


def folders_of_weights() -> Target:
    from safetensors.numpy import save

    from evalkit.extractors.clip import Clip
    from evalkit.models.diffusers.checkpoint import Checkpoint
    from evalkit.models.services.comfyui import read_workflow

    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": "0",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    clip = {"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": {}}
    seeds = {
        "model_index.json": json.dumps(index).encode(), "unet/config.json": b'{"sample_size": 8, "in_channels": 3}',
        "scheduler/scheduler_config.json": b"{}", "open_clip_config.json": json.dumps(clip).encode(),
        "workflow.json": json.dumps(WORKFLOW).encode(),
        "unet/diffusion_pytorch_model.safetensors": save({"a": np.zeros(3, np.float32)}),
    }  # fmt: skip

    def read(path: Path) -> None:
        if path.name == "workflow.json":
            read_workflow(path)
        elif path.name == "open_clip_config.json":
            Clip("x", f"local-dir:{path.parent}").layers  # noqa: B018
        else:
            root = path.parent if path.name == "model_index.json" else path.parent.parent
            Checkpoint(root).check()

    return Target("model folders", seeds, read, text=True)


# Services ------------------------------------------------------------------------------------------------------------


def answers() -> Target:
    from evalkit.http.client import Client
    from evalkit.http.job import Job
    from evalkit.models.services.automatic1111 import Automatic1111
    from evalkit.models.services.comfyui import ComfyUI
    from evalkit.models.services.openai_images import OpenAIImages

    image = base64.b64encode(saved("PNG")).decode()
    history = {
        "1": {
            "status": {"completed": True, "status_str": "success"},
            "outputs": {"9": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}},
        }
    }
    seeds = {
        "openai.json": json.dumps({"data": [{"b64_json": image, "revised_prompt": "x"}]}).encode(),
        "url.json": json.dumps({"data": [{"url": "http://localhost:9/a.png"}]}).encode(),
        "webui.json": json.dumps({"images": [image], "info": json.dumps({"seed": 3, "all_seeds": [3]})}).encode(),
        "prompt.json": b'{"prompt_id": "1", "node_errors": {}}', "history.json": json.dumps(history).encode(),
        "image.png": saved("PNG"),
    }  # fmt: skip

    class Canned(Client):
        answers: Mapping[str, bytes]

        def _send(
            self, method: str, url: str, body: Any, accept: str, deadline: float, timing: Any = None
        ) -> tuple[bytes, str | None]:
            for part, name in (
                ("/prompt", "prompt.json"),
                ("/history", "history.json"),
                ("/view", "image.png"),
                ("a.png", "image.png"),
            ):
                if part in url:
                    return self.answers[name], None
            return self.answers["openai.json"], None

    def read(path: Path) -> None:
        files = {name: (path.parent / name).read_bytes() for name in seeds}
        workflow = path.parent / "flow"
        workflow.write_text(json.dumps(WORKFLOW))
        base, quick = "http://localhost:9", {"retries": 0, "timeout": 1, "budget": 1}
        kinds: dict[str, Callable[[], Any]] = {
            "openai": lambda: OpenAIImages(model="x", base_url=base, api_key_env=None, client=quick),
            "webui": lambda: Automatic1111(base_url=base, client=quick),
            "comfy": lambda: ComfyUI(workflow=str(workflow), base_url=base, client=quick, poll=0.01),
        }
        names = {"openai.json": "openai", "url.json": "openai", "webui.json": "webui"}
        service = kinds[names.get(path.name, "comfy")]()
        client = Canned(base, service.key, service.options)
        client.answers = files | ({"openai.json": files[path.name]} if path.name in names else {})
        job = Job(client, "sample 0", threading.Event(), time.monotonic() + 0.2)
        service.obtain(job, Request(0, 0, "a fox"), {})

    return Target("service answers", seeds, read, text=True)


def all_targets(folder: Path) -> list[Target]:
    """Every reader; `folder` is where inputs are made that only a library can write."""
    made = {
        name: folder / name for name in ("parquet", "arrays", "statistics", "weights", "results", "history", "latents")
    }
    for path in made.values():
        path.mkdir(parents=True)
    return [
        *(images(), profiles(), png_texts(), folder_target(), sidecars(), archives("zip"), archives("tar")),
        *(parquet(made["parquet"]), arrays(made["arrays"]), statistics(made["statistics"]), weights(made["weights"])),
        *(
            latents(made["latents"]),
            prompt_tables(),
            attributes(),
            benchmarks(),
            results(made["results"]),
            past_runs(made["history"]),
            gates(),
            config(),
            folders_of_weights(),
            keras_files(),
            answers(),
            vote_files(),
            score_requests(),
            scorer_answers(),
            completions(),
            stored_answers(),
            questions(),
            known_answers(),
        ),
    ]


folder_target = folder  # `folder` is an argument's name there
