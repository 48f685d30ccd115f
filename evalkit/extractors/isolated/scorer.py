"""A scorer of one's own: a file or a package's callable that gives a number per image, in its own environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, nearest
from evalkit.extractors.base import DECODER, BatchSize
from evalkit.extractors.isolated.base import IsolatedExtractor
from evalkit.extractors.isolated.environment import Environment
from evalkit.utils.files import sha256_file

SCRIPTS = Path(__file__).with_name("scripts")
CALL = "score"  # what a script defines, where `call` says nothing else


class Scorer(IsolatedExtractor):
    """Layer score (`width` numbers per image): whatever a function or class gives of images and prompts.

    A function is called as `score(images, prompts, **options)`, a class is built by `Class(device=..., **options)` and
    its object called as `object(images, prompts)`: images are a list of arrays u8 [H,W,3], prompts a list of texts
    (empty without `prompts`). It returns [B] or [B, width] numbers: a list, an array or a tensor.

    Args:
        name: how scores are labelled.
        script: a Python file that needs no evalkit, or the name of one that evalkit ships (image_reward, hpsv3); its
            digest is in the protocol.
        call: the name in the script ("score"), or "module:name" of a package of the environment.
        options: keyword arguments. The digest of a file that one names is in the protocol.
        about: what else numbers rest on, for the protocol: {weights: "REPO at REVISION"}.
        prompts: whether it takes each image's prompt as well.
        width: numbers per image.
        env: see `evalkit.extractors.isolated.environment.Environment`; none: this process's own packages.
        canonical: whether a metric's bare title stands for these numbers in the literature.
        batch_size: images handed over at a time.
        timeout: seconds that a batch may take before its process is ended; none: any time.
    """

    def __init__(
        self,
        name: str,
        script: str | None = None,
        call: str | None = None,
        options: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
        prompts: bool = True,
        width: int = 1,
        env: Mapping[str, Any] | None = None,
        canonical: bool = False,
        batch_size: BatchSize = 8,
        timeout: float | None = None,
    ) -> None:
        super().__init__(name, batch_size, Environment.of(env, f"extractor.{name}.env"), timeout)
        self.script = _script(script, name)
        self.call, self.options, self.about = call, dict(options or {}), dict(about or {})
        self.width, self._canonical = width, canonical
        if width < 1:
            raise ConfigError(f"extractor.{name}.width={width}: give the numbers per image, >= 1")
        if prompts:
            self.joint_layers = frozenset({CALL})

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"score": self.width}

    @property
    def scorer(self) -> Mapping[str, Any]:
        script = None if self.script is None else str(self.script.resolve())
        return {"script": script, "call": self.call, "options": self.options}

    def check(self, *, fetch: bool = True) -> None:
        if self.script is None and ":" not in (self.call or ""):
            raise ConfigError(f"extractor.{self.name}: give script=FILE, or call=MODULE:NAME (call={self.call})")
        if self.script is not None and not self.script.is_file():
            known = [path.stem for path in SCRIPTS.glob("*.py")]
            missing = f"extractor.{self.name}.script={self.script}: there is no such file"
            raise ConfigError(f"{missing}. Scripts that evalkit ships: {', '.join(sorted(known))}")
        super().check(fetch=fetch)

    def identity(self) -> dict[str, Any]:
        self.check(fetch=False)
        files = {key: sha256_file(path) for key, path in self._files().items()}
        return {
            "network": "a scorer in an environment of its own",
            "script": None if self.script is None else sha256_file(self.script),
            "call": self.call or CALL,
            "options": {key: value for key, value in self.options.items() if key not in files},
            **({"files": files} if files else {}),
            **self.about,
            "prompts": bool(self.joint_layers),
            "dtype": "the scorer's",
            "decoder": DECODER,
            "environment": self.environment.identity(),
        }

    def _files(self) -> dict[str, Path]:
        texts = {key: Path(value) for key, value in self.options.items() if isinstance(value, str) and value}
        return {key: path for key, path in texts.items() if path.is_file()}

    def label(self) -> str:
        return self.name

    def canonical(self) -> bool:
        return self._canonical


def _script(given: str | None, name: str) -> Path | None:
    """A file, or by its bare name one of those that evalkit ships."""
    if given is None:
        return None
    if given.endswith(".py") or "/" in given or Path(given).is_file():
        return Path(given).expanduser()
    shipped = [path.stem for path in SCRIPTS.glob("*.py")]
    if given not in shipped:
        raise ConfigError(f"extractor.{name}.script={given}: no such file or script. {nearest(given, shipped)}")
    return SCRIPTS / f"{given}.py"
