"""``python -m evalkit.digits.train WHAT --mnist DIR``: remake the reference file or a model."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from evalkit.digits import ROOT, WEIGHTS

# Default training times, for one CPU thread (--threads 1) with two trainings side by side on two cores. docs/digits.md
# tells what the shipped weights took; nobody ran all of these defaults from end to end.
MINUTES = {"classifier": 10.0, "clip": 20.0, "ldm": 60.0, "ddpm": 110.0, "dcgan": 10.0}
MINUTES |= {"lora": 10.0, "controlnet": 13.0}  # for the ldm


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main = argparse.ArgumentParser(prog="python -m evalkit.digits.train", description=__doc__)
    main.add_argument("what", choices=["reference", *MINUTES], help="what to make")
    main.add_argument("--mnist", type=Path, required=True, metavar="DIR", help="folder of MNIST's t10k idx files")
    main.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: the package's)")
    length = main.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, metavar="M", help="training time (default: per model)")
    length.add_argument("--steps", type=int, metavar="N", help="optimiser steps instead of a time")
    main.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: auto)")
    main.add_argument("--threads", type=int, metavar="T", help="CPU threads (default: torch's choice)")
    main.add_argument("--resume", action="store_true", help="continue from the weights in the output folder")
    main.add_argument("--seed", type=int, default=0, metavar="S")
    main.add_argument("--part", choices=["all", "vae", "unet"], default="all", help="ldm only: which part to train")
    return main


def main(argv: list[str] | None = None) -> int:
    """Run one training; returns the exit status."""
    command_line = parser()
    args = command_line.parse_args(argv)
    if (args.minutes is not None and args.minutes <= 0) or (args.steps is not None and args.steps <= 0):
        command_line.error("--minutes and --steps must be above 0")
    import torch

    from evalkit.digits.train.common import Options

    torch.set_flush_denormal(True)  # tiny leftovers of ReLU nets slow a CPU down manyfold
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    name = args.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    options = Options(
        mnist=args.mnist,
        out=args.out or (ROOT if args.what == "reference" else WEIGHTS),
        minutes=args.minutes or MINUTES.get(args.what, 0.0),
        steps=args.steps,
        device=torch.device(name),
        resume=args.resume,
        part=args.part,
    )
    importlib.import_module(f"evalkit.digits.train.{args.what}").train(options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
