"""Float32 stays float32 whatever the process had set, by the old API or the new one, and the settings come back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

SCRIPT = """
import os, traceback
import torch
from evalkit.extractors.base import exact_float32
from evalkit.numerics.blockwise import full_float32
from evalkit.numerics.precision import float32_arithmetic

B = torch.backends
PARTS = [B, B.cudnn, B.mkldnn, B.cuda.matmul, B.cudnn.conv, B.cudnn.rnn, B.mkldnn.matmul, B.mkldnn.conv]
STATES = {
    "as it starts": "",
    "old: products": "torch.set_float32_matmul_precision('medium')",
    "old: convolutions": "B.cudnn.allow_tf32 = False",
    "old: convolutions again": "B.cudnn.allow_tf32 = True",
    "new: all": "B.fp32_precision = 'tf32'",
    "new: all, exact": "B.fp32_precision = 'ieee'",
    "new: CUDA": "B.cudnn.fp32_precision = 'tf32'",
    "new: products": "B.cuda.matmul.fp32_precision = 'tf32'",
    "new: convolutions": "B.cudnn.conv.fp32_precision = 'ieee'",
    "new: convolutions as all": "B.cudnn.conv.fp32_precision = 'none'",
    "new: CPU": "B.mkldnn.matmul.fp32_precision = 'bf16'; B.mkldnn.conv.fp32_precision = 'bf16'",
    "new: some": "B.fp32_precision = 'ieee'; B.cuda.matmul.fp32_precision = B.cudnn.conv.fp32_precision = 'tf32'",
}

def seen():
    return [part.fp32_precision for part in PARTS]

def flags():
    return B.cudnn.enabled, B.cudnn.benchmark, B.cudnn.deterministic, torch.is_grad_enabled(), seen()

def behaviour():  # what follows what as well
    rows = [flags()]
    for parent in (B.cudnn, B.mkldnn, B):
        for value in ("tf32", "ieee", "none"):
            parent.fp32_precision = value
            rows.append(seen())
    return rows

def use():
    before = flags()
    for how in (full_float32, exact_float32, lambda: exact_float32(tf32=True), lambda: float32_arithmetic(tf32=True)):
        with how():
            assert len(set(seen())) == 1, seen()
        assert flags() == before
        try:
            with how():
                raise KeyError
        except KeyError:
            pass
        assert flags() == before
    with exact_float32():
        assert set(seen()) == {"ieee"} and B.cudnn.deterministic and not B.cudnn.benchmark
        with exact_float32(tf32=True):
            assert set(seen()) == {"tf32"}
        assert set(seen()) == {"ieee"}

def in_a_child(state, used):  # torch has no way back to the settings that it starts with
    there, here = os.pipe()
    if os.fork() == 0:
        try:
            exec(state)
            if used:
                use()
            os.write(here, repr(behaviour()).encode())
        except BaseException:
            os.write(here, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(here)
    with os.fdopen(there, "rb") as file:
        return file.read().decode()

for name, state in STATES.items():
    used, untouched = in_a_child(state, True), in_a_child(state, False)
    assert used.startswith("[") and used == untouched, f"{name}:\\n{used}\\n{untouched}"
print(len(STATES))
"""


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch has no such settings before 2.9")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_exact_inside_and_as_it_was_outside() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("12\n", 0), done.stderr
