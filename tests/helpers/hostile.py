"""Archives that must be refused: how each is made, and the words of its error. docs/formats.md shows the same list."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from evalkit.data.codec import encode_png


def image(seed: int, height: int = 6, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pngs(count: int = 3) -> dict[str, bytes]:
    return {f"{i:03d}.png": encode_png(image(i)) for i in range(count)}


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def write_tar(path: Path, files: Mapping[str, bytes], format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zip_of(*names: str, data: bytes = b"x", method: int = zipfile.ZIP_DEFLATED) -> Callable[[Path], Path]:
    return lambda folder: write_zip(folder / "a.zip", pngs(1) | dict.fromkeys(names, data), method)


def tar_of(*names: str, format: int = tarfile.GNU_FORMAT) -> Callable[[Path], Path]:
    return lambda folder: write_tar(folder / "a.tar", pngs(1) | dict.fromkeys(names, b"x"), format)


def tar_with(kind: bytes, link: str = "") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with tarfile.open(folder / "a.tar", "w") as archive:
            info = tarfile.TarInfo("001.png")
            info.type, info.linkname = kind, link
            archive.addfile(info)
        return folder / "a.tar"

    return make


def symlink_in_zip(folder: Path) -> Path:
    info = zipfile.ZipInfo("001.png")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return folder / "a.zip"


def twice_in_zip(folder: Path) -> Path:
    write_zip(folder / "a.zip", pngs(1) | {"0x0.png": encode_png(image(9))})
    data = (folder / "a.zip").read_bytes().replace(b"0x0.png", b"000.png")
    (folder / "a.zip").write_bytes(data)
    return folder / "a.zip"


def twice_in_tar(folder: Path) -> Path:
    with tarfile.open(folder / "a.tar", "w") as archive:
        for data in pngs(2).values():
            info = tarfile.TarInfo("000.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return folder / "a.tar"


def encrypted(folder: Path) -> Path:
    data = bytearray(write_zip(folder / "a.zip", pngs(1)).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    data[data.index(b"PK\x03\x04") + 6] |= 1
    (folder / "a.zip").write_bytes(data)
    return folder / "a.zip"


def overlapping(folder: Path) -> Path:
    """Two entries of the directory point at one member."""
    data = bytearray(write_zip(folder / "a.zip", pngs(2)).read_bytes())
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    data[second + 42 : second + 46] = struct.pack("<L", 0)
    (folder / "a.zip").write_bytes(data)
    return folder / "a.zip"


def huge(folder: Path) -> Path:
    """A member that is said to unpack to 3 GiB."""
    data = bytearray(write_zip(folder / "a.zip", pngs(1)).read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<L", 3 << 30)
    (folder / "a.zip").write_bytes(data)
    return folder / "a.zip"


def liar(folder: Path) -> Path:
    """A member that unpacks to more than its directory says."""
    data = bytearray(write_zip(folder / "a.zip", {"000.png": encode_png(image(0)) + b"\0" * 5000}).read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<L", 100)
    (folder / "a.zip").write_bytes(data)
    return folder / "a.zip"


def many_pixels(folder: Path) -> Path:
    """A PNG of 10,000 x 10,000 pixels: its header alone tells so."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))

    head = struct.pack(">2L5B", 10_000, 10_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    return write_zip(folder / "a.zip", {"000.png": data})


def cut(name: str, share: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = (write_zip if name.endswith(".zip") else write_tar)(folder / name, pngs())
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        return path

    return make


def joined(folder: Path) -> Path:
    path = write_tar(folder / "a.tar", pngs())
    path.write_bytes(path.read_bytes() * 2)
    return path


def compressed(folder: Path) -> Path:
    with tarfile.open(folder / "a.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("000.png"))
    return folder / "a.tar"


def bytes_as(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def objects(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        array = np.array([{"a": 1}], dtype=object)
        if name.endswith(".npy"):
            np.save(folder / name, array)
        else:
            np.savez(folder / name, arr_0=array)
        return folder / name

    return make


def bomb_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "a.npz", arr_0=np.zeros((400, 64, 64, 3), np.uint8))
    return folder / "a.npz"


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip, a name that climbs out": (zip_of("../../evil.png"), "climbs out of the archive"),
    "zip, climbing with backslashes": (zip_of("..\\evil.png"), "climbs out of the archive"),
    "zip, an absolute name": (zip_of("/etc/evil.png"), "is an absolute path"),
    "zip, a drive letter": (zip_of("C:\\evil.png"), "is an absolute path"),
    "tar, a name that climbs out": (tar_of("a/../../evil.png"), "climbs out of the archive"),
    "tar, an absolute name": (tar_of("/etc/evil.png"), "is an absolute path"),
    "tar, climbing in a long name": (tar_of("b/" * 80 + "../evil.png"), "climbs out of the archive"),
    "tar, climbing in a pax header": (
        tar_of("b/" * 80 + "../evil.png", format=tarfile.PAX_FORMAT),
        "climbs out of the archive",
    ),
    "a control character in a name": (zip_of("a\nb.png"), "is empty or holds control characters"),
    "zip, a symbolic link": (symlink_in_zip, "is a link"),
    "tar, a symbolic link": (tar_with(tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
    "tar, a hard link": (tar_with(tarfile.LNKTYPE, "000.png"), "is a link"),
    "tar, a device": (tar_with(tarfile.CHRTYPE), "is a device"),
    "tar, a pipe": (tar_with(tarfile.FIFOTYPE), "is a pipe"),
    "an archive inside": (zip_of("more.zip"), "archives inside archives are not read"),
    "a pickle inside a zip": (zip_of("meta.pkl"), "holds the pickle"),
    "a pickle inside a tar": (tar_of("000.pyd"), "holds the pickle"),
    "object array, .npy": (objects("a.npy"), "not a readable .npy"),
    "object array, .npz": (objects("a.npz"), "not a readable .npz"),
    "encrypted zip": (encrypted, "is encrypted"),
    "zip, packed by bzip2": (zip_of("001.png", method=zipfile.ZIP_BZIP2), "is packed by method 12"),
    "zip, a name twice": (twice_in_zip, "two members are called '000.png'"),
    "tar, a name twice": (twice_in_tar, "two members are called '000.png'"),
    "bomb by ratio": (zip_of("001.png", data=b"\0" * (2 << 20)), "a bomb"),
    "bomb by ratio, .npz": (bomb_npz, "a bomb"),
    "bomb by size": (huge, "(limit 536,870,912)"),
    "bomb by overlapping members": (overlapping, "lies over another member"),
    "bomb by pixels": (many_pixels, "is more than 89478485 pixels"),
    "unpacks to more than is declared": (liar, "does not unpack to the 100 bytes that are declared"),
    "truncated zip": (cut("a.zip", 0.6), "its end is missing"),
    "truncated tar": (cut("a.tar", 0.055), "is cut short"),
    "truncated .npy": (
        bytes_as("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (9, 9, 9, 3), }"),
        "not a readable .npy",
    ),
    "tars joined": (joined, "data after its end mark"),
    "compressed tar": (compressed, "a compressed tar"),
    "no zip": (bytes_as("a.zip", b"no archive at all" * 99), "not a zip"),
    "no tar": (bytes_as("a.tar", b"no archive at all" * 99), "not a tar"),
    "no Parquet": (bytes_as("a.parquet", b"no table at all" * 99), "not a readable .parquet"),
    "empty file": (bytes_as("a.tar", b""), "not a tar"),
}
