"""Published statistics of reference images: the mean and covariance of features, read and written as .npz.

Read: pytorch-fid's, clean-fid's and EDM's files (`mu`, `sigma`), ADM's (`mu_s` and `sigma_s` as well, of the spatial
features), and our own, which also say how many images and which extractor are behind them. Never a pickle.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.data.npz import Npz
from evalkit.data.remote import Place
from evalkit.errors import ConfigError, DataError
from evalkit.utils.files import atomic_path, sha256_bytes
from evalkit.utils.json_files import parse_json
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

SCHEMA = 1
SPATIAL_LAYER = "mixed6_conv7"  # whose moments ADM's mu_s and sigma_s are
ASYMMETRY = 1e-4  # of the largest entry: published float32 covariances are not symmetric to the last bit
PICKLES = (".pkl", ".pickle", ".pt", ".pth")


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of the features of a set of images.

    Attributes:
        name: for messages: the file.
        mean: f64 [D].
        cov: f64 [D,D].
        n: number of images behind them, or none where the file does not say.
        features: the address of the features ("inception/pool3"), or none where the file does not say.
        digest: of the numbers and of what the file says about them.
        extractor: the identity of the extractor that they were made with, or none where the file does not say.
        spatial: ADM's second pair, of the layer mixed6_conv7, where the file has it.
    """

    name: str
    mean: NDArray[np.float64]
    cov: NDArray[np.float64]
    n: int | None
    features: str | None
    digest: str
    extractor: Mapping[str, Any] | None = None
    spatial: Moments | None = None

    def are_of(self, address: str) -> bool:
        """Whether they are said to be of the layer of a feature address, or hold a pair of it."""
        layer = address.partition("/")[2]
        known = self.features is not None and self.features.partition("/")[2] == layer
        return known or (layer == SPATIAL_LAYER and self.spatial is not None)


def read_moments(path: Place, *, quiet: bool = False) -> Moments:
    """Moments of an .npz file. An `arr_0` of images next to them (ADM) is not read, which is said unless `quiet`.

    Raises:
        ConfigError: there is no such file, or it is a pickle.
        DataError: it is no .npz of moments, or they are not a mean [D] and a finite, symmetric covariance [D,D].
    """
    if path.suffix in PICKLES:
        raise ConfigError(
            f"{path} is a pickle, which runs code as it is read: give the statistics as an .npz "
            "(np.savez(FILE, mu=..., sigma=...)); EDM publishes theirs as .npz too"
        )
    if not path.is_file():
        raise ConfigError(f"there is no file of reference statistics {path}: check reference.stats.path")
    npz = Npz(path)
    wanted = [name for name in npz.sizes if name in ("mu", "sigma", "mu_s", "sigma_s", "n", "protocol")]
    held = {name: npz.read(name) for name in wanted}
    if not {"mu", "sigma"} <= held.keys():
        found = ", ".join(sorted(npz.sizes)) or "no named array"
        raise DataError(f"{path} holds no statistics: 'mu' and 'sigma' are wanted, it has {found}")
    if "arr_0" in npz.sizes and not quiet:
        log.info("%s: its statistics (mu, sigma) are used, not the images in it, which may be fewer", path)
    moments = _pair(path, held, "mu", "sigma", _read_protocol(path, held))
    if {"mu_s", "sigma_s"} <= held.keys():
        spatial = _pair(path, held, "mu_s", "sigma_s", {"features": f"inception/{SPATIAL_LAYER}"})
        moments = replace(moments, spatial=spatial)
    return moments


def write_moments(
    path: Path,
    mean: NDArray[np.float64],
    cov: NDArray[np.float64],
    *,
    n: int | None,
    features: str,
    extractor: Mapping[str, Any],
) -> None:
    """Writes moments whole or not at all; pytorch-fid, clean-fid and ADM read `mu` and `sigma` from it.

    Args:
        path: an .npz.
        mean: f64 [D].
        cov: f64 [D,D], ddof=1.
        n: number of images.
        features: the address of the features.
        extractor: `Extractor.identity()`.

    Raises:
        ConfigError: the name does not end in .npz, by which readers know the format.
        DataError: they are not a mean and a covariance.
    """
    import numpy as np

    if path.suffix != ".npz":
        raise ConfigError(f"statistics are written as .npz, but the file is to be {path}")
    mean, cov = _checked(path, mean, cov, ("mu", "sigma"))
    protocol = {"schema": SCHEMA, "features": features, "extractor": dict(extractor)}
    arrays: dict[str, Any] = {"mu": mean, "sigma": cov, "protocol": np.array(json.dumps(protocol, sort_keys=True))}
    if n is not None:
        arrays["n"] = np.array(n, dtype=np.int64)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def moments_for(moments: Moments, address: str, identity: Mapping[str, Any], width: int | None) -> Moments:
    """The pair of moments that belongs to a feature address, checked to be of the extractor in use.

    Args:
        moments: of a file.
        address: what a metric needs ("inception/pool3").
        identity: the extractor's in use.
        width: of the layer in use; none where it is not known.

    Raises:
        ConfigError: the file is of another layer, another extractor (the first thing that differs is named) or another
            width. Where the file says nothing of its extractor, only the width can be checked.
    """
    layer = address.partition("/")[2]
    if layer == SPATIAL_LAYER and moments.spatial is not None:
        moments = moments.spatial
    where = f"the reference statistics {moments.name}"
    remedy = "give statistics made with this extractor, or the images themselves (reference=folder)"
    if moments.features is not None and moments.features.partition("/")[2] != layer:
        raise ConfigError(f"{where} are of {moments.features}, but {address} is asked for: {remedy}")
    if width is not None and width != len(moments.mean):
        raise ConfigError(f"{where} have {len(moments.mean)} dimensions, but {address} has {width}: {remedy}")
    if moments.extractor is not None:
        mine = json.loads(json.dumps(identity))
        for key in sorted(mine.keys() | moments.extractor.keys()):
            theirs, ours = moments.extractor.get(key), mine.get(key)
            if theirs != ours:
                raise ConfigError(
                    f"{where} were made with another extractor than {address}: {key} was {_short(theirs)}, "
                    f"and is {_short(ours)}: {remedy}"
                )
    return moments


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _checked(
    path: Place, mean: NDArray[Any], cov: NDArray[Any], names: tuple[str, str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean f64 [D] and covariance f64 [D,D]; DataError where they cannot be that."""
    import numpy as np

    mu, sigma = names
    if mean.dtype.kind != "f" or cov.dtype.kind != "f":
        raise DataError(f"{path}: '{mu}' and '{sigma}' must be floats, but are {mean.dtype} and {cov.dtype}")
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)) or len(mean) == 0:
        raise DataError(f"{path}: '{mu}' must be [D] and '{sigma}' [D,D], but they are {mean.shape} and {cov.shape}")
    mean, cov = mean.astype(np.float64), cov.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise DataError(f"{path}: '{mu}' or '{sigma}' holds values that are not finite")
    largest = float(np.abs(cov).max())
    if float(np.abs(cov - cov.T).max()) > ASYMMETRY * largest:
        raise DataError(f"{path}: '{sigma}' is not symmetric, so it is no covariance")
    if float(cov.diagonal().min()) < -ASYMMETRY * largest:
        raise DataError(f"{path}: '{sigma}' has a negative variance on its diagonal, so it is no covariance")
    return mean, cov


def _pair(path: Place, held: Mapping[str, NDArray[Any]], mu: str, sigma: str, protocol: Mapping[str, Any]) -> Moments:
    """A mean and covariance of a file; `protocol` is what is known of their features."""
    mean, cov = _checked(path, held[mu], held[sigma], (mu, sigma))
    n, counts = None, held.get("n")
    if counts is not None:
        if counts.size != 1 or counts.dtype.kind not in "iu" or counts.item() < 2:
            raise DataError(f"{path}: 'n' must be the number of images, 2 or more")
        n = int(counts.item())
    head = json.dumps({"n": n, **protocol}, sort_keys=True).encode()
    digest = sha256_bytes(head + mean.tobytes() + cov.tobytes())
    return Moments(str(path), mean, cov, n, protocol.get("features"), digest, protocol.get("extractor"))


def _read_protocol(path: Place, held: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """What our own files say about the extractor; empty for files of others."""
    if "protocol" not in held:
        return {}
    try:
        protocol: dict[str, Any] = parse_json(str(held["protocol"]), f"{path}: its 'protocol' cannot be read")
        if protocol["schema"] != SCHEMA:
            raise ValueError(f"schema {protocol['schema']}, and {SCHEMA} is known here")
        return {"features": str(protocol["features"]), "extractor": dict(protocol["extractor"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: its 'protocol' cannot be read: {one_line(error)[:200]}") from error
