"""A scorer in a process and an environment of its own: all of evalkit that is needed there is this file, next to numpy.

`python worker.py PARENT_PID` reads messages from standard input and answers each on standard output, until the input
ends. A message is a length (4 bytes, little-endian), so many bytes of JSON, and the arrays that its "arrays" lists by
dtype and shape, one after another, as they lie in memory (C order). docs/scorers.md describes all of them.

It runs on Python 3.8 and later: nothing newer is used here.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import signal
import struct
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

PROTOCOL = 1
LENGTH = struct.Struct("<I")
LOOK_SECONDS = 0.5  # between two looks at whether the parent is alive


def send(pipe: IO[bytes], header: Mapping[str, Any], arrays: Sequence[np.ndarray[Any, Any]] = ()) -> None:
    """Writes a message; OSError where the other side is gone."""
    whole = [np.ascontiguousarray(array) for array in arrays]
    described = [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in whole]
    text = json.dumps({**header, "arrays": described}).encode()
    pipe.write(LENGTH.pack(len(text)) + text)
    for array in whole:
        pipe.write(array.reshape(-1).view(np.uint8).data)  # a view: no copy of the pixels
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
    """Reads a message; EOFError where the other side is gone, ValueError where it is none."""
    (length,) = LENGTH.unpack(_exactly(pipe, LENGTH.size))
    header = json.loads(_exactly(pipe, length))
    arrays = []
    for each in header.pop("arrays"):
        array = np.empty(each["shape"], each["dtype"])
        if array.nbytes:
            _fill(pipe, array.reshape(-1).view(np.uint8).data)
        arrays.append(array)
    return header, arrays


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = bytearray(count)
    _fill(pipe, memoryview(data))
    return bytes(data)


def _fill(pipe: Any, left: memoryview) -> None:
    while left:
        count = pipe.readinto(left)
        if not count:
            raise EOFError
        left = left[count:]


class Called:
    """A function `f(images, prompts, **options)`, or a class, built by `C(device=..., **options)` and then called.

    Args:
        scorer: {"script": FILE or none, "call": name in it, or "module:name", "options": {...}}.
        device: "cpu", "cuda", ...
    """

    def __init__(self, scorer: Mapping[str, Any], device: str) -> None:
        options = dict(scorer.get("options") or {})
        if scorer.get("script"):
            names, name = _run_script(scorer["script"]), scorer.get("call") or "score"
        else:
            module, _, name = scorer["call"].partition(":")
            names = vars(importlib.import_module(module))
        if name not in names:
            raise LookupError(f"{scorer.get('script') or scorer['call']} has no '{name}'")
        self.function: Any = names[name]
        self.options = options
        if inspect.isclass(names[name]):
            self.function, self.options = self.function(device=device, **options), {}

    def score(self, header: Mapping[str, Any], images: Sequence[Any]) -> dict[str, np.ndarray[Any, Any]]:
        prompts = header.get("prompts") or []
        values = as_array(self.function(list(images), list(prompts), **self.options))
        if values.ndim == 1:
            values = values[:, None]
        if values.ndim != 2 or len(values) != len(images):
            raise ValueError(f"gave values of shape {list(values.shape)} for {len(images)} images: [B] or [B,D] is it")
        return dict.fromkeys(header["layers"], values)


class Wrapped:
    """An extractor of evalkit, whose package is found in its folder and next to nothing else of ours.

    Args:
        scorer: {"evalkit": folder of the package, "option": the extractor's, with its `_target_`}.
    """

    def __init__(self, scorer: Mapping[str, Any]) -> None:
        if "evalkit" not in sys.modules:
            file = Path(scorer["evalkit"]) / "__init__.py"
            places = [scorer["evalkit"]]
            spec = importlib.util.spec_from_file_location("evalkit", file, submodule_search_locations=places)
            assert spec is not None
            assert spec.loader is not None
            sys.modules["evalkit"] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules["evalkit"])
        option = dict(scorer["option"])
        module, _, name = option.pop("_target_").rpartition(".")
        self.extractor = getattr(importlib.import_module(module), name)(**option)

    def describe(self, fetch: bool) -> dict[str, Any]:
        """After `check`, what identifies it."""
        it = self.extractor
        it.check(fetch=fetch)
        return {"identity": it.identity(), "label": it.label(), "canonical": it.canonical(), "layers": dict(it.layers)}

    def score(self, header: Mapping[str, Any], images: Sequence[Any]) -> dict[str, np.ndarray[Any, Any]]:
        features = self.extractor(list(images), header.get("prompts") or [], header["layers"])
        return {layer: as_array(value) for layer, value in features.items()}


def as_array(values: Any) -> np.ndarray[Any, Any]:
    """Numbers, an array or a tensor, as f32."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    elif isinstance(values, (list, tuple)):
        values = [float(each) if np.ndim(each) == 0 else as_array(each) for each in values]
    return np.asarray(values, np.float32)


def _run_script(path: str) -> dict[str, Any]:
    """The names that a file defines."""
    spec = importlib.util.spec_from_file_location("evalkit_scorer", path)
    if spec is None or spec.loader is None:
        raise LookupError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["evalkit_scorer"] = module
    spec.loader.exec_module(module)
    return vars(module)


class Worker:
    """Does what messages ask for."""

    def __init__(self) -> None:
        self.scorer: Any = None

    def act(
        self, header: Mapping[str, Any], arrays: Sequence[np.ndarray[Any, Any]]
    ) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
        """The answer to a message: its header, and arrays."""
        do = header["do"]
        if do == "describe":
            return Wrapped(header["scorer"]).describe(header["fetch"]), []
        if do == "load":
            if "option" in header["scorer"]:
                self.scorer = Wrapped(header["scorer"])
                self.scorer.extractor.load(header["device"])
            else:
                self.scorer = Called(header["scorer"], header["device"])
            return {}, []
        if do == "score":
            features = self.scorer.score(header, arrays)
            return {"layers": list(features)}, list(features.values())
        raise ValueError(f"no such thing to do: {do}")


def _watch(parent: int) -> None:
    """Ends this process, and all that it started, once its parent is gone: a batch under way may take minutes."""
    stop = threading.Event()
    while os.getppid() == parent:
        stop.wait(LOOK_SECONDS)
    if os.getpgid(0) == os.getpid():  # a group of its own
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _failure(error: BaseException) -> dict[str, Any]:
    """What an answer says of an error; its traceback goes to standard error."""
    traceback.print_exception(type(error), error, error.__traceback__)
    text, kind = str(error).strip() or "no message", type(error).__name__
    memory = isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "out of memory" in text.lower()
    return {"error": text if kind in ("ConfigError", "UnsuitedError") else f"{kind}: {text}", "memory": memory}


def main() -> None:
    """Answers until the input ends."""
    if os.name == "posix":
        threading.Thread(target=_watch, args=(int(sys.argv[1]),), daemon=True).start()
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a scorer that reads its input finds none
    os.dup2(2, 1)  # and what it prints does not get between the answers
    here = str(Path(__file__).resolve().parent)  # its modules are none of the scorer's
    sys.path[:] = [path for path in sys.path if path != here]
    send(target, {"protocol": PROTOCOL, "python": sys.version.split()[0], "numpy": np.__version__})
    worker = Worker()
    while True:
        try:
            header, arrays = receive(source)
        except EOFError:
            os._exit(0)  # at once: whatever threads the scorer left
        answer: list[np.ndarray[Any, Any]] = []
        try:
            about, answer = worker.act(header, arrays)
        except (Exception, SystemExit) as error:
            about = _failure(error)
        sys.stdout.flush()
        sys.stderr.flush()
        send(target, about, answer)


if __name__ == "__main__":
    main()
