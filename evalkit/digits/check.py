"""``python -m evalkit.digits.check``: measure the shipped models against what they must reach."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.digits import data, weights_path
from evalkit.digits.judge import judge

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from evalkit.digits.nets import DigitClassifier

SEED = 1234


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        model: name of the model.
        what: what was measured.
        measured: share in 0..1.
        required: least share that passes, None for a line that only informs.
    """

    model: str
    what: str
    measured: float
    required: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the requirement, if any, is met."""
        return self.required is None or self.measured >= self.required


@dataclass(frozen=True)
class Settings:
    """What the command line chose.

    Attributes:
        device: torch device name.
        samples: at most so many generated images (or reference images for clip) per line.
        sheets: folder for contact sheets of generated images.
    """

    device: str = "cpu"
    samples: int | None = None
    sheets: Path | None = None


def to_uint8(images: torch.Tensor) -> data.U8:
    """Float [B,3,H,W] in [-1,1] -> uint8 [B,3,H,W]."""
    out: data.U8 = ((images.clamp(-1.0, 1.0) + 1.0) * 127.5).round().byte().cpu().numpy()
    return out


def write_sheet(settings: Settings, name: str, images: data.U8) -> None:
    """Write a contact sheet of uint8 [B,3,32,32], twice enlarged, if a folder for sheets was given."""
    if settings.sheets is None:
        return
    from PIL import Image

    columns = min(20, len(images))
    rows = min(len(images) // columns, 14)
    grid = images[: rows * columns].reshape(rows, columns, 3, 32, 32).transpose(0, 3, 1, 4, 2)
    sheet = np.ascontiguousarray(grid.reshape(rows * 32, columns * 32, 3)).repeat(2, axis=0).repeat(2, axis=1)
    settings.sheets.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(settings.sheets / f"{name}.png")


def right_parts(
    images: data.U8, captions: Sequence[data.Caption], net: DigitClassifier | None = None
) -> NDArray[np.bool_]:
    """Whether digit, ink and background of images uint8 [B,3,32,32] are those of their captions: bool [3,B]."""
    verdict = judge(images, net)
    right: NDArray[np.bool_] = np.stack([verdict.digit, verdict.ink, verdict.background]) == data.indices(captions)
    return right


def check_classifier(settings: Settings) -> Iterator[Row]:
    """Accuracy on all reference images: digits, and the colour rule as well as the colour heads."""
    import torch

    from evalkit.digits.nets import load_classifier

    images, captions = data.reference_images()
    net = load_classifier(device=settings.device)
    _, ink, ground = data.indices(captions)
    right = right_parts(images, captions, net)
    yield Row("classifier", "digit right", float(right[0].mean()), 0.985)
    yield Row("colour rule", "ink and background right", float(right[1:].all(axis=0).mean()), 1.0)
    with torch.inference_mode():
        batches = torch.tensor_split(torch.from_numpy(images), 20)
        heads = [net(part.to(settings.device).float() / 127.5 - 1.0) for part in batches]
    inks, grounds = (torch.cat([h[k].argmax(1) for h in heads]).cpu().numpy() for k in ("ink", "background"))
    yield Row("classifier", "colour heads right", float(((inks == ink) & (grounds == ground)).mean()))


def clip_accuracy(images: data.U8, captions: list[data.Caption], device: str = "cpu") -> tuple[float, float]:
    """Share of images uint8 [B,3,32,32] whose own caption scores best among all 560, and whose digit is right."""
    import open_clip
    import torch
    from PIL import Image

    name = f"local-dir:{weights_path('clip')}"
    model, _, preprocess = open_clip.create_model_and_transforms(name, device=device)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    place = {prompt: number for number, prompt in enumerate(data.PROMPTS)}
    best: list[int] = []
    with torch.inference_mode():
        texts = model.encode_text(tokenizer([p.text for p in data.PROMPTS]).to(device), normalize=True)  # [560,64]
        for start in range(0, len(images), 250):
            pictures = images[start : start + 250].transpose(0, 2, 3, 1)
            batch = torch.stack([preprocess(Image.fromarray(p)) for p in pictures]).to(device)  # [b,3,64,64]
            best += (model.encode_image(batch, normalize=True) @ texts.T).argmax(dim=1).tolist()
    right = [number == place[caption] for number, caption in zip(best, captions, strict=True)]
    digit = [data.PROMPTS[n].digit == caption.digit for n, caption in zip(best, captions, strict=True)]
    return float(np.mean(right)), float(np.mean(digit))


def check_clip(settings: Settings) -> Iterator[Row]:
    """Retrieval of the right caption among all 560."""
    images, captions = data.reference_images()
    step = max(1, len(images) // settings.samples) if settings.samples else 1
    caption, digit = clip_accuracy(images[::step], captions[::step], settings.device)
    yield Row("digits_clip", "right caption of 560", caption, 0.95)
    yield Row("digits_clip", "its digit right", digit)


def _quiet_pipeline(kind: str, name: str, device: str) -> Any:
    """A diffusers pipeline of ours, float32, without progress bars."""
    import diffusers
    import torch

    diffusers.utils.logging.disable_progress_bar()
    pipeline = getattr(diffusers, kind).from_pretrained(weights_path(name), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def generate_ldm(pipeline: Any, prompts: list[str], guidance: float, steps: int, batch: int = 56) -> data.U8:
    """Images uint8 [B,3,32,32] of the prompts, from a fixed seed."""
    import torch

    generator = torch.Generator("cpu").manual_seed(SEED)
    options = {"num_inference_steps": steps, "guidance_scale": guidance, "generator": generator, "output_type": "pt"}
    batches = [prompts[start : start + batch] for start in range(0, len(prompts), batch)]
    parts = [pipeline(part, **options).images for part in batches]  # [b,3,32,32] in [0,1]
    return to_uint8(torch.cat(parts) * 2.0 - 1.0)


def check_ldm(settings: Settings) -> Iterator[Row]:
    """25 steps of DPM-Solver++ at guidance 3, 4 and 5: digit, ink and background as asked, all three at once."""
    from diffusers import DPMSolverMultistepScheduler

    pipeline = _quiet_pipeline("StableDiffusionPipeline", "ldm", settings.device)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    prompts = list(data.PROMPTS[: settings.samples])
    shares = []
    for guidance in (3.0, 4.0, 5.0):
        images = generate_ldm(pipeline, [p.text for p in prompts], guidance, 25)
        write_sheet(settings, f"ldm-{guidance:g}", images)
        right = right_parts(images, prompts)
        shares.append(float(right.all(axis=0).mean()))
        digit, ink, ground = right.mean(axis=1)
        parts = f"digit {digit:.1%}, ink {ink:.1%}, background {ground:.1%}"
        yield Row("digits_ldm", f"guidance {guidance:g}: all right ({parts})", shares[-1])
    yield Row("digits_ldm", "all right at the best guidance", max(shares), 0.95)


def sample_ddpm(pipeline: Any, scheduler: Any, steps: int, indices: range) -> data.U8:
    """Samples of random classes, as a run of evalkit with seed `SEED` makes them: u8 [B,3,32,32].

    The loop is written out since a `DDPMPipeline` hands no classes to its UNet, and `evalkit.models` is not imported.
    """
    import torch
    from diffusers.utils.torch_utils import randn_tensor

    states = [np.random.SeedSequence((SEED, index)).generate_state(1, np.uint64)[0] for index in indices]
    generators = [torch.Generator().manual_seed(int(state >> np.uint64(1))) for state in states]
    unet = pipeline.unet
    with torch.inference_mode():
        classes = [torch.randint(unet.config.num_class_embeds, (1,), generator=g) for g in generators]
        labels = torch.cat(classes).to(unet.device)  # i64 [B]
        scheduler.set_timesteps(steps, device=unet.device)
        x = randn_tensor((len(indices), 3, 32, 32), generators, unet.device) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            guess = unet(scheduler.scale_model_input(x, t), t, class_labels=labels).sample
            x = scheduler.step(guess, t, x, generator=generators).prev_sample
        return np.asarray(((x / 2 + 0.5).clamp(0, 1) * 255).round().byte().cpu().numpy())


def check_ddpm(settings: Settings) -> Iterator[Row]:
    """Share of samples that are a clear digit, with two samplers."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    pipeline = _quiet_pipeline("DDPMPipeline", "ddpm", settings.device)
    config = pipeline.scheduler.config
    samplers: list[tuple[str, Any, int, float | None]] = [
        ("DDIM 50", DDIMScheduler.from_config(config), 50, 0.90),
        ("DPM-Solver++ 20", DPMSolverMultistepScheduler.from_config(config), 20, None),
    ]
    count = settings.samples or 320
    for name, scheduler, steps, required in samplers:
        images = np.concatenate(
            [sample_ddpm(pipeline, scheduler, steps, range(s, min(s + 64, count))) for s in range(0, count, 64)]
        )
        write_sheet(settings, f"ddpm-{name.split()[0].lower()}", images)
        verdict = judge(images)
        yield Row("digits_ddpm", f"{name}: clear digit", float((verdict.confidence > 0.9).mean()), required)
        found = len(set(verdict.digit.tolist()))
        spread = float((verdict.ink != verdict.background).mean())
        yield Row("digits_ddpm", f"{name}: two colours ({found} of 10 digits seen)", spread)


def check_dcgan(settings: Settings) -> Iterator[Row]:
    """Share of samples that show the asked digit."""
    import torch

    from evalkit.digits.nets import load_dcgan

    count = settings.samples or 2000
    labels = torch.arange(count) % 10
    latents = torch.randn(count, 64, generator=torch.Generator().manual_seed(SEED))
    net = load_dcgan(device=settings.device)
    with torch.inference_mode():
        images = to_uint8(net(latents.to(settings.device), labels.to(settings.device)))
    write_sheet(settings, "dcgan", images)
    verdict = judge(images)
    yield Row("digits_dcgan", "asked digit right", float((verdict.digit == labels.numpy()).mean()), 0.90)
    yield Row("digits_dcgan", "two colours", float((verdict.ink != verdict.background).mean()))


CHECKS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    "classifier": check_classifier,
    "clip": check_clip,
    "dcgan": check_dcgan,
    "ddpm": check_ddpm,
    "ldm": check_ldm,
}


def main(argv: list[str] | None = None) -> int:
    """Check the chosen models; 1 if one fails."""
    parser = argparse.ArgumentParser(prog="python -m evalkit.digits.check", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(CHECKS)} (default: all)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--samples", type=int, metavar="N", help="fewer images per model, for a quick look")
    parser.add_argument("--sheets", type=Path, metavar="DIR", help="write contact sheets there")
    args = parser.parse_args(argv)
    unknown = sorted(set(args.models) - set(CHECKS))
    if unknown:
        parser.error(f"unknown model {', '.join(unknown)}; choose from {', '.join(CHECKS)}")
    settings = Settings(args.device, args.samples, args.sheets)
    print(f"{'model':<13} required measured pass what")
    passed = True
    for name in args.models or CHECKS:
        started = time.monotonic()
        for row in CHECKS[name](settings):
            passed &= row.passed
            need = "-" if row.required is None else f"{row.required:.1%}"
            mark = "-" if row.required is None else ("yes" if row.passed else "NO")
            print(f"{row.model:<13} {need:>8} {row.measured:>8.1%} {mark:<4} {row.what}", flush=True)
        print(f"{'':<36} ({name}: {time.monotonic() - started:.0f} s)", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
