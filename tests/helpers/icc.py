"""Colour profiles made by hand (ICC.1:2001-04): matrices of RGB, a curve of grey, a table of CMYK."""

from __future__ import annotations

import struct

import numpy as np

# Primaries of Display P3 on a D50 white (SMPTE EG 432-1, adapted by Bradford): the columns are red, green and blue.
P3 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
D50 = (0.9642, 1.0, 0.8249)


def _xyz(values: tuple[float, ...] | np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def _text(text: str) -> bytes:
    letters = text.encode() + b"\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(letters)) + letters + bytes(4 + 4 + 2 + 1 + 67)


def _profile(colours: bytes, pcs: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4xI", start + len(body), 0x02400000) + kind + colours + pcs
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(D50)[8:] + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


def rgb_profile(name: str = "Display P3 by hand", matrix: np.ndarray = P3, gamma: float = 2.2) -> bytes:
    columns = {f"{c}XYZ".encode(): _xyz(matrix[:, i]) for i, c in enumerate("rgb")}
    curves = {f"{c}TRC".encode(): _curve(gamma) for c in "rgb"}
    return _profile(b"RGB ", b"XYZ ", b"mntr", {b"desc": _text(name), b"wtpt": _xyz(D50), **columns, **curves})


def grey_profile(name: str = "Grey by hand", gamma: float = 1.0) -> bytes:
    return _profile(b"GRAY", b"XYZ ", b"mntr", {b"desc": _text(name), b"wtpt": _xyz(D50), b"kTRC": _curve(gamma)})


def cmyk_profile(name: str = "Press by hand") -> bytes:
    """All ink or none at each corner: L* is 100 without ink and 0 with any; a* and b* are 0."""
    ramp = bytes(range(256))
    corners = b"".join(bytes([255 if corner == 0 else 0, 128, 128]) for corner in range(16))
    identity = b"".join(struct.pack(">i", v << 16) for v in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + corners + ramp * 3
    return _profile(b"CMYK", b"Lab ", b"prtr", {b"desc": _text(name), b"wtpt": _xyz(D50), b"A2B0": lut, b"A2B1": lut})
