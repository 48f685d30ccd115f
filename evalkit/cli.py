"""The command line: Hydra's, with errors of one line and exit codes that CI can act on."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from evalkit.config.compose import explain, explain_null, register, resolve
from evalkit.config.schema import CONFIG_MODULE
from evalkit.errors import EXIT_CONFIG, EXIT_DONE, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED, EvalkitError
from evalkit.utils.files import disk_error
from evalkit.utils.signals import Terminated, sigterm_is_ctrl_c

# Where torchao is installed, `import diffusers` warns of what concerns their developers alone.
_CHATTY = ("torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")


def main() -> None:
    """Runs an evaluation from the command line's overrides and exits with DESIGN's codes."""
    register()
    _set_up_logging()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them, so that we can say more
    try:
        with sigterm_is_ctrl_c():
            _run()
    except (HydraException, OmegaConfBaseException) as error:
        _fail(explain(error, _overrides(), _config_dir()), EXIT_CONFIG)
    except ValueError as error:
        _fail(explain_null(error, _overrides()), EXIT_CONFIG)
    except KeyboardInterrupt as stop:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        code = EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED
        _fail(f"stopped. All finished shards are kept; the same command goes on from there: {command}", code)


@hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name="eval")
def _run(config: DictConfig) -> None:
    try:  # here, not in main: Hydra would print its own words first
        _evaluate(config)
    except EvalkitError as error:
        _fail(error, error.exit_code)
    except OSError as error:  # a full disk, a store that cannot be read
        _fail(disk_error(error, Path(config.out or config.store), "read or write"), EXIT_ERROR)


def _evaluate(config: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    choices = OmegaConf.to_container(hydra_config.runtime.choices)
    run_config = resolve(config, choices)  # type: ignore[arg-type]
    if run_config.selfcheck:
        from evalkit.selfcheck import check_peers, print_selfcheck

        right = [print_selfcheck(run_config.device), check_peers(run_config)]
        sys.exit(EXIT_DONE if all(right) else EXIT_ERROR)
    from evalkit import pipeline
    from evalkit.plan.plan import make_plan
    from evalkit.plan.show import print_plan
    from evalkit.results.terminal import print_results

    plan = make_plan(run_config)
    if run_config.dry_run:
        print_plan(plan)
        sys.exit(EXIT_CONFIG if plan.missing else EXIT_DONE)
    overrides = [str(override) for override in hydra_config.overrides.task]
    command = shlex.join(["python", "run_eval.py", *overrides])
    table = pipeline.run(plan, command=command)
    print_results(table, plan.out, against_baseline=plan.baseline is not None, report=plan.config.report)
    exit_code = EXIT_DONE
    if table.gate is not None:
        from evalkit.gate import Verdict, announce

        verdict = Verdict.from_json(table.gate)
        announce(verdict)
        exit_code = verdict.exit_code
    if table.failures is not None:  # a failed gate says more: its code stands
        _fail(table.failures, exit_code or EXIT_ERROR)
    if exit_code:
        sys.exit(exit_code)


def _overrides() -> list[str]:
    return [arg for arg in sys.argv[1:] if not arg.startswith("-")]


def _config_dir() -> str | None:
    """The folder of `--config-dir` (or -cd), which Hydra's error does not carry."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    folder = parser.parse_known_args()[0].config_dir
    return str(Path(folder).resolve()) if folder else None


def _fail(message: object, exit_code: int) -> None:
    sys.stdout.flush()
    print(f"evalkit: {message}", file=sys.stderr)
    sys.exit(exit_code)


def _set_up_logging() -> None:
    logger = logging.getLogger("evalkit")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
