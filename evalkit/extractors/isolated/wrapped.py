"""Any extractor of evalkit in an environment of its own: `extractor.vqascore.env={python: "3.10", packages: [...]}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError
from evalkit.extractors.base import Extractor
from evalkit.extractors.isolated.base import IsolatedExtractor
from evalkit.extractors.isolated.environment import Environment
from evalkit.extractors.isolated.process import Gone, Refused, ScorerProcess
from evalkit.utils.code import class_digest

PACKAGE = Path(__file__).parents[2]  # of evalkit


class Wrapped(IsolatedExtractor):
    """An extractor that runs elsewhere. There evalkit is found by its path, and nothing else of this environment's.

    The environment needs numpy and what the extractor's own module imports (for most: torch and Pillow).

    Args:
        inner: the extractor as it is built here, which says what its layers are.
        option: its own, with its `_target_`, without `env`.
        env: see `Environment`.
    """

    def __init__(self, inner: Extractor, option: Mapping[str, Any], env: Mapping[str, Any]) -> None:
        environment = Environment.of(env, f"extractor.{inner.name}.env")
        super().__init__(inner.name, inner.batch_size, environment, None)
        self.inner, self._option = inner, dict(option)
        self.text_layers, self.joint_layers = inner.text_layers, inner.joint_layers
        self._about: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        """What it alone has, a detector's `class_names` say: as it is known here."""
        if name.startswith("_") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def scorer(self) -> Mapping[str, Any]:
        return {"evalkit": str(PACKAGE), "option": self._option}

    @property
    def layers(self) -> Mapping[str, int | None]:
        return self.inner.layers

    def check(self, *, fetch: bool = True) -> None:
        super().check(fetch=fetch)
        if not self._about:
            self._about = self._describe(fetch)

    def _describe(self, fetch: bool) -> dict[str, Any]:
        """What it says of itself there, after its own `check`."""
        try:
            process = ScorerProcess(self.environment.interpreter)
        except Gone as error:
            raise ConfigError(f"{self.where}: {error}") from error
        try:
            return process.ask({"do": "describe", "scorer": dict(self.scorer), "fetch": fetch}, limit=False)[0]
        except (Gone, Refused) as error:
            raise ConfigError(f"{self.where}, in its environment: {error}") from error
        finally:
            process.close()

    def identity(self) -> dict[str, Any]:
        self.check()
        code = class_digest(type(self.inner))
        return {**self._about["identity"], "code": code, "environment": self.environment.identity()}

    def label(self) -> str:
        self.check()
        return str(self._about["label"])

    def canonical(self) -> bool:
        self.check()
        return bool(self._about["canonical"])

    def prompt_warnings(self, prompts: Sequence[str]) -> dict[str, int]:
        return {}
