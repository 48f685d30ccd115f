"""Models as .onnx files: `python -m evalkit.models.onnx.export digits_dcgan g.onnx` writes a torch generator as one.

Of a diffusers pipeline (`... export digits_ldm FOLDER`) it writes one per network, for model=[onnx_pipeline].
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, EvalkitError
from evalkit.models.onnx.exporter import OPSET, quiet_exporter

if TYPE_CHECKING:
    from torch import Tensor, nn


def export_onnx(
    module: nn.Module, examples: Sequence[Tensor], path: Path, names: Sequence[str], *, opset: int = OPSET
) -> None:
    """Writes a module in evaluation mode as one .onnx file, the first dimension of each input free.

    Args:
        module: takes the examples by position and gives one tensor, or something whose `sample` is one.
        examples: one tensor per input, of at least two samples, so that the free dimension is not taken for a constant.
        path: what to write; weights stand in the file itself (at most 2 GB).
        names: of the inputs; the output is called "images".
        opset: of the ONNX operators.

    Raises:
        ConfigError: a package is missing, or torch cannot export the module.
    """
    import torch

    batch = torch.export.Dim("batch")
    with quiet_exporter(type(module).__name__):
        program = torch.onnx.export(
            module.eval(),
            tuple(examples),
            input_names=list(names),
            output_names=["images"],
            opset_version=opset,
            dynamo=True,
            dynamic_shapes=tuple({0: batch} for _ in examples),
            verbose=False,
        )
        assert program is not None
        program.save(str(path), external_data=False)


def export_model(option: dict[str, Any], path: Path) -> None:
    """Writes the generator of a model option (TorchModuleModel) as one .onnx file, inputs "z" and "classes"; of a
    pipeline (DiffusersModel) its networks into a folder, where a line each says how close they came.

    Raises:
        ConfigError: it is no such model, or see `export_onnx`.
    """
    import torch

    from evalkit.config.build import GRID_KEYS, build, locate
    from evalkit.models.diffusers.model import DiffusersModel
    from evalkit.models.gan import TorchModuleModel

    target = locate(str(option["_target_"]))
    if target is DiffusersModel:
        _export_networks(option, path)
        return
    mine = target is TorchModuleModel
    others = TorchModuleModel.call_settings | GRID_KEYS
    model = build({key: value for key, value in option.items() if key not in others}) if mine else None
    if model is None or model.module is None:
        raise ConfigError(
            "a generator with `module` and `weights` (evalkit.models.gan.TorchModuleModel) is exported, "
            "or a pipeline (evalkit.models.diffusers.DiffusersModel)"
        )
    model.check()
    model.load("cpu")
    examples = [torch.zeros(2, *model.z_shape, dtype=getattr(torch, model.dtype))]
    if model.num_classes is not None:
        onehot = model.class_input == "one_hot"
        examples.append(torch.zeros(2, model.num_classes) if onehot else torch.zeros(2, dtype=torch.int64))
    export_onnx(model._net, examples, path, ["z", "classes"][: len(examples)])


def _export_networks(option: dict[str, Any], folder: Path) -> None:
    from evalkit.config.build import GRID_KEYS, build
    from evalkit.models.diffusers.model import DiffusersModel
    from evalkit.models.onnx.export_pipeline import export_pipeline

    of_calls = DiffusersModel.call_settings
    if folder.is_file():
        raise ConfigError(f"{folder} is a file: a pipeline's networks are written into a folder")
    model = build({key: value for key, value in option.items() if key not in of_calls | GRID_KEYS})
    model.check()
    settings = {key: value for key, value in option.items() if key in of_calls and value is not None}
    for name, error in export_pipeline(model, settings, folder):
        print(f"{folder / name}.onnx: within {error:.1g} of torch's largest output")


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m evalkit.models.onnx.export OPTION FILE [KEY=VALUE ...]`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m evalkit.models.onnx.export", description=__doc__)
    parser.add_argument("option", help="of configs/model/, such as digits_dcgan or gan")
    parser.add_argument("file", type=Path, help="the .onnx file to write, or of a pipeline the folder")
    parser.add_argument("overrides", nargs="*", help="such as model.gan.module=my_package.Generator")
    given = parser.parse_args(arguments)
    from evalkit.config.compose import compose, resolve

    try:
        config = resolve(compose([f"model=[{given.option}]", *given.overrides]))
        export_model(config.model[given.option], given.file)
    except EvalkitError as error:
        print(f"evalkit: {error}", file=sys.stderr)
        return 2
    if given.file.is_file():
        print(f"{given.file}: {given.file.stat().st_size} bytes, opset {OPSET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
