"""A model's starting noise from a file or a folder: `model.NAME.latents=PATH`.

The same noise given to two engines makes the same image, as far as they are the same model. What is read is what a
pipeline takes as `latents`: of a diffusion model unit noise, before the scheduler's `init_noise_sigma` scales it.

Shapes: a file holds [N, ...], one latent per sample, or [1, ...], one for all. A .safetensors file with several
tensors, and a folder of files, hold one latent per sample, in natural order of their names; a leading axis of 1 is the
batch's.
Types: float32, float16 and bfloat16 are taken as they are, float64 is rounded to float32; nothing else is taken.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.data.concat import natural_key
from evalkit.errors import ConfigError, DataError
from evalkit.utils.files import open_file, resolve_path, stamp_of_file
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIXES = (".safetensors", ".npy", ".pt", ".pth")
TENSOR = "latents"  # the tensor's name in a file of ours
CELL, SHA256 = "evalkit_cell", "evalkit_sha256"  # keys of our files' metadata: whose noise it was, and its digest
_DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}  # of safetensors; NumPy has no bfloat16
_BLOCK = 1 << 24  # bytes that are hashed at a time


class StartingNoise:
    """The latents that a cell's samples begin with; `noise[i]` is that of sample i.

    Args:
        path: a .safetensors, .npy or .pt file (the last with `weights_only=True`), or a folder of such.
        where: what messages call it ("model.sdxl.latents").

    Raises:
        ConfigError: there is no such file, it holds something else, or values that are not finite.
        DataError: it is damaged.
    """

    def __init__(self, path: str, where: str) -> None:
        self.path, self.where = resolve_path(path), where
        files = self._files()
        self._stamps = [(file, stamp_of_file(file)) for file in files]
        self._metadata: dict[str, str] = {}
        tensors = [tensor for file in files for tensor in self._read(file)]
        if not tensors:
            raise ConfigError(f"{where}: {self.path} holds no latents: give a tensor [N, ...]")
        self._each = [self._alone(tensor) for tensor in tensors] if len(tensors) > 1 else None
        self._stack = tensors[0]
        if self._each is None and self._stack.ndim < 2:
            shape = list(self._stack.shape)
            raise ConfigError(f"{where}: {self.path} is {shape}: give [N, ...], one latent per sample, or [1, ...]")

    def __len__(self) -> int:
        """How many latents there are: 1 is for all samples."""
        return len(self._stack) if self._each is None else len(self._each)

    def __getitem__(self, sample: int) -> NDArray[np.float32]:
        """The latent of a sample, without a batch axis. DataError: there are fewer, or its file changed."""
        count = len(self)
        if not 0 <= sample < count and count > 1:
            raise DataError(f"{self.where}: {self.path} holds {count} latents, none for sample {sample}")
        row = sample if count > 1 else 0
        file, stamp = self._stamps[row if len(self._stamps) == count else 0]
        if not file.is_file() or stamp_of_file(file) != stamp:
            raise DataError(f"{self.where}: {file} changed since the run began: start the run again")
        return _as_f32(self._stack[row] if self._each is None else self._each[row])

    def shape(self, sample: int) -> tuple[int, ...]:
        """The shape of a sample's latent."""
        if self._each is None:
            return tuple(self._stack.shape[1:])
        return tuple(self._each[sample if len(self._each) > 1 else 0].shape)

    def check(self, needs: Sequence[tuple[int, ...] | None]) -> None:
        """ConfigError: too few latents, or one of another shape than its sample needs.

        Args:
            needs: by sample the shape that the model needs; none: not known before it is loaded.
        """
        if 1 < len(self) < len(needs):
            raise ConfigError(
                f"{self.where}: {self.path} holds {len(self)} latents for {len(needs)} samples: give one per sample, "
                "or one for all ([1, ...])"
            )
        for sample, need in enumerate(needs):
            if need is not None and self.shape(sample) != tuple(need):
                given = f"{list(self.shape(sample))} for sample {sample}"
                raise ConfigError(
                    f"{self.where}: {self.path} holds {given}, but the model begins with {list(need)}: "
                    f"give [N, {', '.join(map(str, need))}]"
                )

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of all values as float32, little-endian, one latent after another: the same in whichever format.

        Raises:
            ConfigError: a value is NaN or infinite.
            DataError: the file says that it holds other values (it was altered after evalkit wrote it).
        """
        import numpy as np

        digest = hashlib.sha256()
        for part in [self._stack] if self._each is None else self._each:
            flat = part.reshape(-1)
            for start in range(0, len(flat), _BLOCK // 4):
                block = _as_f32(flat[start : start + _BLOCK // 4])
                if not np.isfinite(block).all():
                    raise ConfigError(f"{self.where}: {self.path} holds NaN or infinite values")
                digest.update(block.astype("<f4", copy=False).tobytes())
        found = digest.hexdigest()
        if self._metadata.get(SHA256, found) != found:
            raise DataError(f"{self.where}: {self.path} was altered after it was written: write it again")
        return found

    @property
    def cell(self) -> str | None:
        """The key of the cell whose noise evalkit wrote into it; none: not ours, or not known."""
        return self._metadata.get(CELL)

    def identity(self) -> dict[str, Any]:
        """What of it can change a pixel (JSON)."""
        shapes = list(self.shape(0)) if self._each is None else [list(part.shape) for part in self._each]
        return {"sha256": self.sha256, "shape": shapes}

    def about(self) -> dict[str, Any]:
        """What results say of it (JSON)."""
        told = {"path": str(self.path), "sha256": self.sha256, "count": len(self), "shape": list(self.shape(0))}
        return told | ({"cell": self.cell} if self.cell else {})

    def _files(self) -> list[Path]:
        if self.path.is_dir():
            files = [f for f in self.path.iterdir() if f.suffix in SUFFIXES and not f.name.startswith(".")]
            if not files:
                raise ConfigError(f"{self.where}: {self.path} holds no file of latents ({', '.join(SUFFIXES)})")
            return sorted(files, key=lambda file: natural_key(file.name))
        if not self.path.is_file():
            raise ConfigError(f"{self.where}: {self.path} is missing: give a file or a folder of latents")
        if self.path.suffix not in SUFFIXES:
            raise ConfigError(f"{self.where}: {self.path} is no file of latents: give {', '.join(SUFFIXES)}")
        return [self.path]

    def _read(self, file: Path) -> list[NDArray[Any]]:
        """The tensors of a file, in natural order of their names; of large ones nothing is read yet."""
        if file.suffix == ".npy":
            return [self._npy(file)]
        if file.suffix == ".safetensors":
            metadata, tensors = safetensors(file, self.where)
            if file == self.path:
                self._metadata = metadata
        else:
            tensors = self._torch(file)
        if TENSOR in tensors:
            return [tensors[TENSOR]]
        return [tensors[name] for name in sorted(tensors, key=natural_key)]

    def _npy(self, file: Path) -> NDArray[Any]:
        import numpy as np

        try:
            with open_file(file):
                array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # of a damaged header NumPy raises what its tokenizer and integers raise
            raise DataError(f"{self.where}: {file} is no .npy file of numbers: {one_line(error)}") from error
        if array.dtype.kind != "f" or array.dtype.itemsize > 8:
            raise ConfigError(f"{self.where}: {file} holds {array.dtype}: give float32 (float16, bfloat16)")
        return array

    def _torch(self, file: Path) -> dict[str, NDArray[Any]]:
        import torch

        from evalkit.utils.state_dict import load_tensors

        held = load_tensors(file, self.where)
        tensors = held if isinstance(held, Mapping) else {TENSOR: held}
        found: dict[str, NDArray[Any]] = {}
        for name, tensor in tensors.items():
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                kind = str(tensor.dtype) if isinstance(tensor, torch.Tensor) else f"a {type(tensor).__name__}"
                raise ConfigError(f"{self.where}: {file} holds {kind}: give one tensor of floats")
            found[str(name)] = tensor.detach().float().numpy()
        return found

    def _alone(self, tensor: NDArray[Any]) -> NDArray[Any]:
        return tensor[0] if tensor.ndim > 1 and len(tensor) == 1 else tensor


@functools.lru_cache(maxsize=32)
def _opened(path: str, where: str, stamps: object) -> StartingNoise:
    return StartingNoise(path, where)


def open_noise(path: str, where: str) -> StartingNoise:
    """The starting noise of a path; read once per process, as long as its files stay as they are.

    Args and errors as of `StartingNoise`.
    """
    place = resolve_path(path)
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    stamps = tuple((file.name, stamp_of_file(file)) for file in files if file.is_file())
    return _opened(str(path), where, stamps)


def safetensors(file: Path, where: str) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """The metadata of a .safetensors file and its tensors, mapped: nothing of them is read yet.

    bfloat16 comes as its bits, u16.

    Raises:
        DataError: it is no such file, or is damaged.
        ConfigError: a tensor is not of floats.
    """
    import numpy as np

    from evalkit.models.diffusers.checkpoint import read_header

    header = read_header(file)  # looks whether all is there
    with open_file(file) as opened:
        length = int.from_bytes(opened.read(8), "little")
        raw = json.loads(opened.read(length))
    tensors: dict[str, NDArray[Any]] = {}
    for name, about in header.items():
        if about.dtype not in _DTYPES:
            raise ConfigError(f"{where}: {file}: '{name}' holds {about.dtype}: give F32 (F16, BF16)")
        begin = 8 + length + int(raw[name]["data_offsets"][0])
        if 0 in about.shape:
            raise ConfigError(f"{where}: {file}: '{name}' is {list(about.shape)}: it holds nothing")
        tensors[name] = np.memmap(file, _DTYPES[about.dtype], "r", begin, tuple(about.shape))
    return {str(k): str(v) for k, v in (raw.get("__metadata__") or {}).items()}, tensors


def _as_f32(part: NDArray[Any]) -> NDArray[np.float32]:
    """Values as float32; u16 are the bits of bfloat16."""
    import numpy as np

    if part.dtype == np.uint16:
        bits: NDArray[np.float32] = (np.asarray(part).astype(np.uint32) << 16).view(np.float32)
        return bits
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        return np.asarray(part).astype(np.float32)
