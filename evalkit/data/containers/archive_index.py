"""What lies in a zip or a tar, found without unpacking: where each member starts, and everything that is refused.

Nothing of an archive ever becomes a path on disk. Names that climb out of it, links, encryption, pickles, archives
inside archives and members beyond the declared limits are refused all the same: it is not what it is said to be.
Formats: PKWARE's APPNOTE.TXT 6.3 (zip, zip64; stored and deflated) and POSIX.1-2001 pax with GNU's long names (tar).
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from evalkit.data.remote import Place, RemoteFile, open_place
from evalkit.errors import ConfigError, DataError, EvalkitError
from evalkit.utils.text import one_line

MAX_FILES = 2_000_000
MAX_DIRECTORY_BYTES = 512 << 20  # of a zip: 256 for each of the most files
MAX_TOTAL_BYTES = 1 << 40  # of all members, unpacked
MAX_MEMBER_BYTES = 512 << 20  # of one member, unpacked; an image of the most pixels is 256 MiB
MAX_RATIO = 200  # unpacked to packed, of a member of more than RATIO_FROM bytes; deflate can reach 1,032
RATIO_FROM = 1 << 20
_MAX_NAME_BYTES = 1 << 16  # of a tar's long name or pax header: they are read whole

PICKLES = (".pkl", ".pickle", ".pyd", ".pt", ".pth", ".ckpt", ".joblib", ".dill")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar", ".npz")

_STORED, _DEFLATED, _TAR = 0, 8, -1
_BLOCK = 512  # of a tar
_LOCAL_HEADER = 30  # bytes of a zip member's local header before its name
_IN_ZIP64 = 0xFFFF  # a number that stands elsewhere, since 16 bits do not hold it
_ENCRYPTED, _AES = 0x2041, 99  # a zip's flags (bits 0, 6 and 13), and the method of WinZip's encryption
_LOCAL_GUESS = 256  # bytes of name and extra field that are read along with a zip member's local header
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive.

    Attributes:
        start: of its local header in a zip, of its data in a tar; bytes from the archive's start.
        packed, size: bytes in the archive, and unpacked.
        method: a zip's 0 (stored) or 8 (deflated); -1 in a tar.
    """

    start: int
    packed: int
    size: int
    method: int


def list_members(path: Place) -> dict[str, Member]:
    """The files of a .zip or .tar in the archive's order, by their names inside it (posix, without a leading "./").

    Raises:
        ConfigError: there is no such file.
        DataError: it is no such archive, is cut short or damaged, or holds what is refused (see the module's text).
        ServiceError: it is remote, and cannot be reached.
    """
    members: dict[str, Member] = {}
    total = 0
    try:
        with open_place(path) as file:
            listed = _zip_members(file, path) if path.suffix.lower() == ".zip" else _tar_members(file, path)
            for raw, member in listed:
                name = _safe_name(path, raw)
                if name in members:
                    raise DataError(f"{path}: two members are called {name!r}: pack it again, each name once")
                total += member.size
                _check_limits(path, name, member, len(members) + 1, total)
                members[name] = member
    except FileNotFoundError:
        raise ConfigError(f"{path}: the archive of images is missing: check the path") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}: check the path") from error
    _check_overlap(path, members)
    return members


def read_member(file: BinaryIO, path: Place, name: str, member: Member) -> bytes:
    """A member's bytes. Safe to call from several threads on one open file.

    Raises:
        DataError: the archive is not as it was listed, or the member is damaged.
    """
    if member.method == _TAR:
        data = _read_at(file, member.start, member.size)
        if len(data) != member.size:
            raise _damaged(path, f"{name!r} is cut short")
        return data
    data = _zip_data(file, path, name, member)
    if member.method == _STORED:
        return data
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(
            data, member.size + 1
        )  # one more: a longer one is found, and no more is unpacked
    except zlib.error as error:
        raise _damaged(path, f"{name!r} cannot be unpacked: {error}") from error
    if len(unpacked) != member.size:
        raise _damaged(path, f"{name!r} does not unpack to the {member.size} bytes that are declared")
    return unpacked


def _read_at(file: BinaryIO, start: int, count: int) -> bytes:
    """`count` bytes from `start`, fewer at the file's end; leaves the file's position alone where the system can."""
    if isinstance(file, RemoteFile):
        return file.read_at(start, count)
    if not hasattr(os, "pread"):
        with _lock:
            file.seek(start)
            return file.read(count)
    data = b""  # a read is cut at 2 GiB, and by some network file systems
    while len(data) < count and (more := os.pread(file.fileno(), count - len(data), start + len(data))):
        data += more
    return data


def _damaged(path: Place, what: str) -> DataError:
    return DataError(f"{path}: damaged: {what}: copy or pack it again")


# Names and limits --------------------------------------------------------------------------------------------------


def _safe_name(path: Place, raw: str) -> str:
    name = raw.replace("\\", "/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        raise DataError(f"{path}: the name {raw[:200]!r} is an absolute path: pack it again with relative names")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise DataError(f"{path}: the name {raw[:200]!r} climbs out of the archive: pack it again without '..'")
    if not parts or any(ord(character) < 32 for character in name):
        raise DataError(f"{path}: a member's name is empty or holds control characters: {raw[:200]!r}")
    suffix = PurePosixPath(parts[-1]).suffix.lower()
    if suffix in PICKLES:
        raise DataError(f"{path}: holds the pickle {raw[:200]!r}, which could run code: pack the images without it")
    if suffix in ARCHIVES and not parts[-1].startswith("."):
        raise DataError(f"{path}: holds the archive {raw[:200]!r}; archives inside archives are not read: unpack it")
    return "/".join(parts)


def _check_folder(path: Place, name: str) -> None:
    if name.rstrip("/") != ".":  # "./" is what `tar -c .` begins with
        _safe_name(path, name)


def _check_limits(path: Place, name: str, member: Member, count: int, total: int) -> None:
    if count > MAX_FILES:
        raise _too_many(path)
    if member.size > MAX_MEMBER_BYTES:
        raise DataError(
            f"{path}: {name!r} unpacks to {member.size:,} bytes (limit {MAX_MEMBER_BYTES:,}): a bomb, or no image"
        )
    if member.size > RATIO_FROM and member.size > MAX_RATIO * member.packed:
        raise DataError(
            f"{path}: {name!r} unpacks to {member.size:,} bytes from {member.packed:,} (limit {MAX_RATIO} to 1): a "
            "bomb; if not, unpack it and give the folder"
        )
    if total > MAX_TOTAL_BYTES:
        raise DataError(f"{path}: its files unpack to more than {MAX_TOTAL_BYTES:,} bytes: a bomb; if not, split it")


def _too_many(path: Place) -> DataError:
    return DataError(f"{path}: more than {MAX_FILES:,} files: a bomb; if not, split it")


def _check_overlap(path: Place, members: dict[str, Member]) -> None:
    """Members that share bytes are how a small zip unpacks to petabytes at an ordinary ratio."""
    end = 0
    for name, member in sorted(members.items(), key=lambda item: item[1].start):
        if member.start < end:
            raise DataError(f"{path}: {name!r} lies over another member (a bomb): pack it again")
        end = member.start + member.packed


# Zip ---------------------------------------------------------------------------------------------------------------


def _zip_members(file: BinaryIO, path: Place) -> Iterator[tuple[str, Member]]:
    archive = _zip_directory(file, path)
    for info in archive.infolist():
        name, size, packed, method = info.orig_filename, info.file_size, info.compress_size, info.compress_type
        if name.endswith("/") and not size:
            _check_folder(path, name)
            continue
        if info.flag_bits & _ENCRYPTED or method == _AES:
            raise DataError(f"{path}: {name[:200]!r} is encrypted: pack it again without a password")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError(f"{path}: {name[:200]!r} is a link: pack the files themselves")
        if method not in (_STORED, _DEFLATED):
            raise DataError(f"{path}: {name[:200]!r} is packed by method {method}: pack it again, stored or deflated")
        if method == _STORED and size != packed:
            raise _damaged(path, f"{name[:200]!r} is stored, but its two sizes differ")
        if info.header_offset < 0 or info.header_offset + _LOCAL_HEADER + packed > archive.start_dir:
            raise _damaged(path, f"{name[:200]!r} lies beyond its end")
        yield name, Member(info.header_offset, packed, size, method)


def _zip_directory(file: BinaryIO, path: Place) -> zipfile.ZipFile:
    end, count = _zip_end(file, path)
    try:
        archive = zipfile.ZipFile(_UpTo(file, end, path))
    except EvalkitError:
        raise
    except Exception as error:  # zipfile raises BadZipFile, struct.error, UnicodeDecodeError ... on a damaged directory
        raise _damaged(path, f"its directory cannot be read: {one_line(error)}") from error
    if len(archive.infolist()) > MAX_FILES:
        raise _too_many(path)
    if count != _IN_ZIP64 and count != len(archive.infolist()) & _IN_ZIP64:
        raise _damaged(path, "its directory has another length than is declared")
    return archive


def _zip_end(file: BinaryIO, path: Place) -> tuple[int, int]:
    """Where the record ends that ends a zip, but for a comment, and the number of files that it tells.

    zipfile would take what looks like such a record within the comment for it, and looks neither at the number nor at
    the parts.
    """
    length = file.seek(0, os.SEEK_END)
    tail = _read_at(file, max(0, length - 65_557), 65_557)
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0 and (at + 22 > len(tail) or at + 22 + struct.unpack_from("<H", tail, at + 20)[0] != len(tail)):
        at = tail.rfind(b"PK\x05\x06", 0, at)
    if at >= 0:
        disk, first, _, count = struct.unpack_from("<4H", tail, at + 4)
        if not {disk, first} <= {0, _IN_ZIP64}:
            raise DataError(f"{path}: a zip in several parts: join them into one")
        return length - len(tail) + at + 22, count
    if _read_at(file, 0, 4) == b"PK\x03\x04":
        raise _damaged(path, "its end is missing (a download that was cut short?)")
    raise DataError(f"{path}: not a zip: give a zip, or name it as what it is (.tar, .npz, .npy, .parquet)")


class _UpTo(io.RawIOBase):
    """An open zip without its comment. zipfile reads its directory whole: one larger than is allowed is refused."""

    def __init__(self, file: BinaryIO, end: int, path: Place) -> None:
        super().__init__()
        self._file, self._end, self._path = file, end, path

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(self._end + offset) if whence == os.SEEK_END else self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        rest = self._end - self._file.tell()
        size = rest if size < 0 else min(size, rest)
        if size > MAX_DIRECTORY_BYTES:
            raise _too_many(self._path)
        return self._file.read(size)


def _zip_name(raw: bytes, flags: int) -> str:
    try:
        return raw.decode("utf-8" if flags & 0x800 else "cp437")
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _zip_data(file: BinaryIO, path: Place, name: str, member: Member) -> bytes:
    data = _read_at(file, member.start, _LOCAL_HEADER + _LOCAL_GUESS + member.packed)
    if len(data) < _LOCAL_HEADER or data[:4] != b"PK\x03\x04":
        raise _damaged(path, f"{name!r} is not where the directory says")
    flags, method, name_length, extra_length = struct.unpack_from("<2x2H16x2H", data, 4)
    begin = _LOCAL_HEADER + name_length + extra_length
    if begin > _LOCAL_HEADER + _LOCAL_GUESS:
        data = _read_at(file, member.start, begin + member.packed)
    local = _zip_name(data[_LOCAL_HEADER : _LOCAL_HEADER + name_length], flags).replace("\\", "/")
    if method != member.method or "/".join(p for p in local.split("/") if p not in ("", ".")) != name:
        raise _damaged(path, f"{name!r} is called or packed otherwise in the directory than at its place")
    packed = data[begin : begin + member.packed]
    if len(packed) != member.packed:
        raise _damaged(path, f"{name!r} is cut short")
    return packed


# Tar ---------------------------------------------------------------------------------------------------------------

_TAR_KINDS = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"S": "a sparse file"}


def _tar_members(file: BinaryIO, path: Place) -> Iterator[tuple[str, Member]]:
    length = file.seek(0, os.SEEK_END)
    at = 0
    long_name, long_size = "", -1  # what a header before a member says of it
    while True:
        head = _read_at(file, at, _BLOCK)
        if len(head) < _BLOCK:
            if not at:
                raise _no_tar(path, head)
            raise _damaged(path, "its end is missing (a download that was cut short?)")
        if not any(head):
            while block := _read_at(file, at, 1 << 20):
                if any(block):
                    raise DataError(
                        f"{path}: data after its end mark (tars joined with cat?): give one tar, or pack it again"
                    )
                at += len(block)
            return
        name, size, kind = _tar_header(path, head, at)
        at += _BLOCK
        if kind in (b"L", b"x", b"g", b"K"):
            if size > _MAX_NAME_BYTES:
                raise DataError(
                    f"{path}: a name or header of {size:,} bytes (limit {_MAX_NAME_BYTES:,}): pack it again"
                )
            data = _read_at(file, at, size)
            if kind == b"L":
                long_name = _tar_text(data.rstrip(b"\0"))
            elif kind == b"x":
                long_name, long_size = _pax(path, data, long_name)
        else:
            name, size = long_name or name, size if long_size < 0 else long_size
            long_name, long_size = "", -1
            if kind in _TAR_KINDS:
                raise DataError(f"{path}: {name[:200]!r} is {_TAR_KINDS[kind]}: pack the files themselves")
            if kind not in (b"0", b"\0", b"7", b"5"):
                raise DataError(f"{path}: {name[:200]!r} is of an unknown kind {kind!r}: pack it again with GNU tar")
            if at + size > length:
                raise _damaged(path, f"{name[:200]!r} is cut short (a download that was cut short?)")
            if kind != b"5" and not (name.endswith("/") and not size):
                yield name, Member(at, size, size, _TAR)
            else:
                _check_folder(path, name)
        at += -(-size // _BLOCK) * _BLOCK


def _no_tar(path: Place, head: bytes) -> DataError:
    packed = head[:2] == b"\x1f\x8b" or head[:3] in (b"BZh", b"\xfd7z") or head[:4] == b"\x28\xb5\x2f\xfd"
    if packed:
        return DataError(
            f"{path}: a compressed tar, which cannot be read in place: decompress it (gunzip, unzstd, ...)"
        )
    return DataError(f"{path}: not a tar: give a tar, or name it as what it is (.zip, .npz, .npy, .parquet)")


def _tar_header(path: Place, head: bytes, at: int) -> tuple[str, int, bytes]:
    """Name, size and kind of a header block, whose checksum must be right."""
    size, checksum = _tar_number(head[124:136]), _tar_number(head[148:156])
    if size is None or checksum != sum(head[:148]) + 256 + sum(head[156:]):
        raise _damaged(path, f"no header of a member at byte {at}") if at else _no_tar(path, head)
    name = head[:100].split(b"\0", 1)[0]
    prefix = head[345:500].split(b"\0", 1)[0]
    if prefix and head[257:263] == b"ustar\0":  # GNU's own format keeps times there
        name = prefix + b"/" + name
    return _tar_text(name), size, head[156:157]


def _tar_number(field: bytes) -> int | None:
    """Octal digits, or GNU's base 256; none: neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    return int(digits or b"0", 8) if re.fullmatch(rb"[0-7]*", digits) else None


def _tar_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _pax(path: Place, data: bytes, name: str) -> tuple[str, int]:
    """Name and size (-1: not given) of an extended header: records of "LENGTH KEY=VALUE\\n"."""
    size, at = -1, 0
    while at < len(data):
        match = re.compile(rb"(\d{1,6}) ([^=]+)=").match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise _damaged(path, "an extended header cannot be read")
        value = data[match.end() : end - 1]
        if match[2] == b"path":
            name = _tar_text(value)
        elif match[2] == b"size":
            if not re.fullmatch(rb"\d{1,19}", value):
                raise _damaged(path, "an extended header cannot be read")
            size = int(value)
        elif match[2].startswith(b"GNU.sparse"):
            raise DataError(f"{path}: {name[:200]!r} is a sparse file: pack the files themselves")
        at = end
    return name, size
