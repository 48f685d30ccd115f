"""A driver with toy units on Ray, in a process of its own: python ray_driver.py FOLDER UNITS SETTINGS (both JSON)."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from toy_units import Toy, toy_work

from evalkit.engines.ray import Ray
from evalkit.errors import EvalkitError
from evalkit.utils.signals import sigterm_is_ctrl_c

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    engine = Ray(**json.loads(sys.argv[3]))
    try:
        with sigterm_is_ctrl_c():
            for stage in json.loads(sys.argv[2]):
                engine.map(toy_work(Path(sys.argv[1]), [Toy(*unit) for unit in stage]))
    except EvalkitError as error:
        sys.exit(f"evalkit: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        engine.close()
