"""The networks of a diffusers pipeline as .onnx files, for `OnnxPipeline`: each as the pipeline itself calls it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from evalkit.errors import ConfigError
from evalkit.models.base import Request, Sampler
from evalkit.models.onnx.exporter import OPSET, quiet_exporter
from evalkit.models.onnx.pipeline import INDEX, GraphPart, flatten
from evalkit.utils.files import write_text
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from evalkit.models.diffusers.model import DiffusersModel

_STEPS = 2  # of the two batches that the networks' calls are taken from
_EXTERNAL = 1.5e9  # bytes of weights, from which on they stand in a file of their own: a .onnx file ends at 2 GB
Call = tuple[tuple[Any, ...], dict[str, Any]]


def export_pipeline(model: DiffusersModel, settings: Mapping[str, Any], folder: Path) -> list[tuple[str, float]]:
    """Writes one .onnx file per network that the pipeline calls, and onnx_parts.json.

    Two and three images are made; what differs in shape between their calls is free in the graph, all else is as it
    was: the images' size, whether there is guidance.

    Args:
        model: checked, and not loaded; of float32 and without other forms (compile, quantize, ...).
        settings: call settings, such as guidance_scale, height and width.
        folder: what to write into.

    Returns:
        By network how far the graph's outputs are from torch's at most, on the batch of three that it was not traced
        with, as a share of the largest output.

    Raises:
        ConfigError: a package is missing, or torch cannot export a network.
    """
    model.load("cpu")
    calls = [_calls(model, settings, count) for count in (2, 3)]
    folder.mkdir(parents=True, exist_ok=True)
    parts, errors = [], []
    for name in calls[0]:
        part, error = _export(model, name, calls[0][name], calls[1][name], folder)
        parts.append(part)
        errors.append((name, error))
    index = {"schema": 1, "opset": OPSET, "parts": [part.spec() for part in parts]}
    write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")
    return errors


def _calls(model: DiffusersModel, settings: Mapping[str, Any], count: int) -> dict[str, Call]:
    """By network the arguments of its first call, while the pipeline makes some images."""
    calls: dict[str, Call] = {}

    def keeping(name: str, call: Any) -> Any:
        def kept(*args: Any, **kwargs: Any) -> Any:
            calls.setdefault(name, (args, kwargs))
            return call(*args, **kwargs)

        return kept

    text = model.conditioning == "text"
    requests = [Request(i, 0, prompt=f"a photograph, number {i}" if text else None) for i in range(count)]
    with ExitStack() as stack:
        for part in model.timed_parts():
            method = keeping(part.name, getattr(part.owner, part.method))
            stack.enter_context(mock.patch.object(part.owner, part.method, method))
        asked = {"num_inference_steps": _STEPS, **settings}
        model.generate(requests, sampler=Sampler(), settings={**asked, "num_inference_steps": _STEPS})
    return calls


def _export(model: DiffusersModel, name: str, two: Call, three: Call, folder: Path) -> tuple[GraphPart, float]:
    import torch
    from torch.utils._pytree import tree_flatten, tree_unflatten, treespec_dumps, treespec_loads

    component, _, method = name.partition(".")
    owner, method = model._pipe.components[component], method or "forward"
    (leaves, spec), (others, other_spec) = flatten(*two), flatten(*three)
    if spec != other_spec:
        raise ConfigError(f"{name} takes other arguments for another batch: it cannot be exported")
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    results: list[Any] = []

    class Flat(torch.nn.Module):
        """The network as a function of tensors; the class's own method, without what was put around it."""

        def __init__(self) -> None:
            super().__init__()
            self.network = owner

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            given = [*leaves]
            for place, tensor in zip(places, tensors, strict=True):
                given[place] = tensor
            args, kwargs = tree_unflatten(given, treespec_loads(spec))
            outputs, result = tree_flatten(getattr(type(owner), method)(owner, *args, **kwargs))
            results.append(result)
            return tuple(outputs)

    names = [f"x{i}" for i in range(len(places))]
    free = tuple(
        {d: torch.export.Dim.AUTO for d in range(leaves[i].ndim) if leaves[i].shape[d] != others[i].shape[d]}
        for i in places
    )
    file = folder / f"{name}.onnx"
    with quiet_exporter(name):
        program = torch.onnx.export(
            Flat().eval(),
            tuple(leaves[i].clone() for i in places),
            input_names=names,
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(free,),
            verbose=False,
        )
        assert program is not None
        weights = sum(w.numel() * w.element_size() for w in owner.parameters())
        program.save(str(file), external_data=weights > _EXTERNAL)
    roles = iter(names)
    kinds = [{"input": next(roles)} if i in places else {"value": _plain(leaf, name)} for i, leaf in enumerate(leaves)]
    part = GraphPart(name, component, method, file.name, spec, kinds, treespec_dumps(results[-1]))
    with torch.no_grad():
        wanted = Flat()(*(others[i] for i in places))
    return part, _error(file, dict(zip(names, (others[i] for i in places), strict=True)), wanted)


def _plain(leaf: Any, name: str) -> Any:
    if leaf is not None and not isinstance(leaf, bool | int | float | str):
        raise ConfigError(f"{name} is given a {type(leaf).__name__}, which no graph takes: it cannot be exported")
    return leaf


def _error(file: Path, feed: Mapping[str, Any], wanted: Any) -> float:
    """The largest difference between a graph's outputs and torch's, by the largest of these."""
    from evalkit.models.onnx.session import OnnxFile

    graph = OnnxFile(str(file), threads=1)
    graph.check()
    graph.load()
    try:
        made = graph.outputs(feed)
    except ConfigError as error:
        raise ConfigError(f"the graph of {file.name} takes one batch size alone: {one_line(error, 160)}") from error
    pairs = list(zip(made, wanted, strict=True))
    largest = max(float(right.abs().max()) for _, right in pairs)
    return max(float((left - right).abs().max()) for left, right in pairs) / max(largest, 1e-12)
