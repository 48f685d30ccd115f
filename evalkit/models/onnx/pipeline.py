"""A diffusers pipeline whose networks are .onnx files: tokenizers, schedulers and loops stay the pipeline's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, DataError
from evalkit.models.base import Conditioning
from evalkit.models.diffusers.checkpoint import read_json
from evalkit.models.diffusers.model import DiffusersModel
from evalkit.models.onnx.session import OnnxFile
from evalkit.utils.files import resolve_path, sha256_json

if TYPE_CHECKING:
    import torch

INDEX = "onnx_parts.json"
_LEFT_OUT = ("generator",)  # arguments that a network's graph has no use for


class OnnxPipeline(DiffusersModel):
    """A diffusers pipeline (DiffusersModel), whose networks ONNX Runtime runs.

    `python -m evalkit.models.onnx.export OPTION FOLDER` writes the files of any pipeline that torch can export, for one
    size of images and any batch. The noise, the sampler and the prompts' tokens are those of the same pipeline in
    torch, so that the two can be compared image by image. Its torch weights are loaded too, and not run.

    Args:
        path, revision, variant, pipeline, conditioning, safety_checker, classes: see DiffusersModel.
        onnx: the folder of the .onnx files.
        providers, threads, session, provider_options: see OnnxFile.
    """

    def __init__(
        self,
        path: str,
        onnx: str,
        providers: str | Sequence[str] = "cpu",
        threads: int | None = None,
        session: Mapping[str, Any] | None = None,
        provider_options: Mapping[str, Mapping[str, Any]] | None = None,
        revision: str | None = None,
        variant: str | None = None,
        pipeline: str | None = None,
        conditioning: Conditioning | None = None,
        safety_checker: bool = True,
        classes: int | None = None,
    ) -> None:
        options: dict[str, Any] = {"conditioning": conditioning, "pipeline": pipeline, "classes": classes}
        super().__init__(path, revision, variant, safety_checker=safety_checker, **options)
        self.folder = resolve_path(onnx)
        self._how: dict[str, Any] = {
            **{"providers": providers, "threads": threads, "session": session, "provider_options": provider_options}
        }
        OnnxFile(str(self.folder / INDEX), **self._how)  # refuses what is wrong of these
        self._files: list[OnnxFile] = []

    def _parts(self) -> list[GraphPart]:
        index = self.folder / INDEX
        if not index.is_file():
            command = "python -m evalkit.models.onnx.export OPTION FOLDER"
            raise ConfigError(f"onnx: {index} is missing: give a folder that `{command}` wrote")
        with suppress(LookupError, TypeError):
            return [GraphPart(**part) for part in read_json(index)["parts"]]
        raise DataError(f"{index} is not what the export wrote: export the pipeline again")

    def check(self, *, fetch: bool = True) -> None:
        """As DiffusersModel.check; also looks for the .onnx files and the execution providers."""
        super().check(fetch=fetch)
        for part in self._parts():
            OnnxFile(str(self.folder / part.file), **self._how).check()

    def identity(self) -> dict[str, Any]:
        """The pipeline's, with the digests of the .onnx files and how they are run."""
        parts = self._parts()
        files = {part.name: OnnxFile(str(self.folder / part.file), **self._how).identity() for part in parts}
        index = sha256_json([part.spec() for part in parts])
        return super().identity() | {"kind": "onnx pipeline", "onnx": files, "index": index}

    def load(self, device: str) -> None:
        """Loads the pipeline, opens the files, and puts them in the networks' place."""
        super().load(device)
        self._files = []
        for part in self._parts():
            file = OnnxFile(str(self.folder / part.file), **self._how)
            file.load()
            self._files.append(file)
            owner = self._pipe.components.get(part.component)
            if owner is None:
                raise ConfigError(f"{self.who} has no {part.component}, which {self.folder} was exported with")
            setattr(owner, part.method, _Graph(part, file, owner))

    def unload(self) -> None:
        super().unload()
        for file in self._files:
            file.unload()
        self._files = []


@dataclass(frozen=True)
class GraphPart:
    """A network's call as one graph.

    Attributes:
        name: "unet", "vae.decode".
        component, method: of the pipeline, what the graph stands for.
        file: in the folder.
        arguments: torch's pytree of (args, kwargs), as `treespec_dumps` writes it.
        leaves: by leaf of that the graph's input, {"input": "x0"}, or a value that does not change, {"value": false}.
        result: the pytree of what the call returns; its leaves are the graph's outputs, in order.
    """

    name: str
    component: str
    method: str
    file: str
    arguments: str
    leaves: list[dict[str, Any]]
    result: str

    def spec(self) -> dict[str, Any]:
        """The part as a JSON value."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def flatten(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], str]:
    """A call's leaves, and their tree as text; without what no graph takes."""
    from torch.utils._pytree import tree_flatten, treespec_dumps

    leaves, spec = tree_flatten((tuple(args), {k: v for k, v in kwargs.items() if k not in _LEFT_OUT}))
    return leaves, treespec_dumps(spec)


class _Graph:
    """A graph in the place of a network's method."""

    def __init__(self, part: GraphPart, file: OnnxFile, owner: Any) -> None:
        import inspect

        from torch.utils._pytree import treespec_loads

        self._part, self._file = part, file
        # Pipelines look at what their networks take.
        self.__signature__ = inspect.signature(getattr(type(owner), part.method)).replace()
        parameters = list(self.__signature__.parameters.values())[1:]
        self.__signature__ = self.__signature__.replace(parameters=parameters)
        self._result = treespec_loads(part.result)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from torch.utils._pytree import tree_unflatten

        leaves, spec = flatten(args, kwargs)
        if spec != self._part.arguments:
            raise ConfigError(self._other("other arguments"))
        feed: dict[str, torch.Tensor] = {}
        for leaf, role in zip(leaves, self._part.leaves, strict=True):
            if "input" in role:
                feed[role["input"]] = leaf
            elif leaf != role["value"]:
                raise ConfigError(self._other(f"{json.dumps(role['value'])} where it is given {str(leaf)[:40]}"))
        first = next(iter(feed.values()))
        outputs = self._file.outputs(feed)
        return tree_unflatten([output.to(first.device) for output in outputs], self._result)

    def _other(self, what: str) -> str:
        part = self._part
        return f"{part.file}: {part.name} was exported with {what}: export it with the settings that it is to run with"
