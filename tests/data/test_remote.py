"""fsspec URLs as paths: the same images as the same files on this machine; failures in one line, nothing lost."""

from __future__ import annotations

import io
import itertools
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fakes import MemorySource
from hostile import HOSTILE, image, pngs, write_tar, write_zip
from range_server import Files, serving

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.data import remote, scan
from evalkit.data.codec import encode_png
from evalkit.data.open import PathOpener, kind_of, open_images
from evalkit.data.records import ReadOptions
from evalkit.data.reference import StatsReference
from evalkit.data.remote import Remote, find_place
from evalkit.errors import ConfigError, DataError, EvalkitError, ServiceError
from evalkit.results.export import Export, FolderExport, NpzExport, ParquetExport, Set, WebDatasetExport, write_exports
from evalkit.utils import urls

pytest.importorskip("aiohttp")
NAMES = itertools.count()

FILES = pngs(5) | {
    "b/2.png": encode_png(image(2)),
    "metadata.jsonl": b'{"file_name": "000.png", "text": "a cat"}\n',
    ".hidden.png": b"not looked at",
}


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    remote._OPEN.clear()
    monkeypatch.setattr(urls, "WAITS", (0.01, 0.01))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder of fsspec's memory file system."""
    root = f"memory://t{next(NAMES)}"
    yield root
    fsspec.filesystem("memory").rm(root, recursive=True) if fsspec.filesystem("memory").exists(root) else None


def put(url: str, data: bytes) -> str:
    with fsspec.open(url, "wb") as file:
        file.write(data)
    return url


def local(tmp_path: Path, kind: str) -> Path:
    """The images on this machine."""
    if kind == "folder":
        for name, data in FILES.items():
            (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / name).write_bytes(data)
        return tmp_path / "folder"
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        return write_zip(path, FILES)
    if kind == "tar":
        return write_tar(path, FILES)
    pixels = np.stack([image(i) for i in range(5)])
    if kind == "npy":
        np.save(path, pixels)
    elif kind == "npz":
        np.savez(path, arr_0=pixels)
    else:
        pytest.importorskip("pyarrow")
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({"image": list(pngs(5).values()), "text": ["a cat"] * 5, "category": list("abcde")})
        pyarrow.parquet.write_table(table, path, row_group_size=2)
    return path


def upload(path: Path, url: str) -> str:
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            put(f"{url}/{file.relative_to(path.parent).as_posix()}", file.read_bytes())
    return f"{url}/{path.name}"


def read_all(url: str) -> None:
    source = open_images(find_place(url))
    for i in range(len(source)):
        source.read(range(i, i + 1))


KINDS = ["folder", "zip", "tar", "npy", "npz", "parquet"]


def same_images(here: Any, there: Any, url: str) -> None:
    assert len(there) == len(here)
    assert there.digest == here.digest
    assert there.prompts == here.prompts
    assert there.categories == here.categories
    for ours, theirs in zip(there.read(range(len(there))), here.read(range(len(here))), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert there.location(0).startswith(url)


@pytest.mark.parametrize("kind", KINDS)
def test_a_url_is_the_file_it_was_copied_from(tmp_path: Path, memory: str, kind: str) -> None:
    path = local(tmp_path, kind)
    url = upload(path, memory)
    opening = PathOpener(find_place(url))
    opening.check()
    here = open_images(path)
    assert opening.count() == len(here)
    same_images(here, opening.open(), url)


@pytest.mark.parametrize("kind", KINDS)
def test_over_http(tmp_path: Path, kind: str) -> None:
    path = local(tmp_path, kind)
    files = Files()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            files.files[f"/x/{file.relative_to(path.parent).as_posix()}"] = file.read_bytes()
    with serving(files) as root:
        url = f"{root}/x/{path.name}"
        same_images(open_images(path), open_images(find_place(url)), url)


def test_statistics_behind_a_url(tmp_path: Path, memory: str) -> None:
    np.savez(tmp_path / "stats.npz", mu=np.zeros(3), sigma=np.eye(3))
    url = put(f"{memory}/stats.npz", (tmp_path / "stats.npz").read_bytes())
    assert StatsReference(url).open().digest == StatsReference(tmp_path / "stats.npz").open().digest
    with pytest.raises(ConfigError, match=r"there is no file of reference statistics memory://.*gone\.npz"):
        StatsReference(f"{memory}/gone.npz").check()


def test_paths_of_this_machine_stay_paths(tmp_path: Path) -> None:
    assert find_place("runs/a.zip") == Path("runs/a.zip")
    assert find_place(f"file://{tmp_path}") == tmp_path
    assert isinstance(find_place("pkg://evalkit.digits/weights"), Path)
    path = local(tmp_path, "folder")
    same_images(open_images(path), open_images(find_place(f"file://{path}")), str(path))


def test_in_the_grid_and_as_reference_and_training(tmp_path: Path, memory: str) -> None:
    url, folder = upload(local(tmp_path, "zip"), memory), upload(local(tmp_path, "folder"), memory)
    config = resolve(
        compose(
            [
                *("model=[folder]", f"model.folder.path={url}", "reference=folder", f"reference.folder.path={folder}"),
                *("reference@training=folder", f"training.folder.path={url}"),
            ]
        )
    )
    model = build(config.model["folder"])
    model.check()
    assert model.identity()["folder"] == url
    assert model.num_available() == 6
    digest = open_images(local(tmp_path, "zip")).digest
    for built in (model, build(config.reference["folder"]), build(config.training["folder"])):
        assert built.open().digest == digest
    gone = build(config.reference["folder"] | {"path": f"{memory}/gone.zip"})
    with pytest.raises(ConfigError, match=r"gone\.zip: nothing is there \(no such file, folder or bucket\)"):
        gone.check()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memry://a.zip", "memry://a.zip: no such protocol. Did you mean 'memory'?"),
        ("smb://host/a.zip", "smb:// needs a package that is not installed: pip install smbprotocol"),
        ("memory://gone/folder", "memory://gone/folder: nothing is there"),
        ("memory://gone/a.parquet", "memory://gone/a.parquet: nothing is there"),
        ("memory://gone/a.npz", "the array of images is missing"),
        ("https://me:secret@host/a.zip", "https://host/a.zip: the URL holds a key"),
        ("https://host/a.zip?X-Amz-Signature=secret", "https://host/a.zip: the URL holds a key"),
        ("simplecache::https://host/a.zip?token=secret", "https://host/a.zip: the URL holds a key"),
        ("zip://inner::s3://bucket/a.zip", "give the archive's own URL (s3://bucket/a.zip)"),
    ],
)
def test_what_cannot_be_opened_is_one_line(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PathOpener(find_place(url)).check()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_is_no_folder(memory: str) -> None:
    put(f"{memory}/a.png", encode_png(image(0)))
    with pytest.raises(ConfigError, match=r"no images|is a file, not a folder"):
        PathOpener(find_place(f"{memory}/a.png")).check()


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_are_refused_over_a_url_too(tmp_path: Path, memory: str, what: str) -> None:
    make, words = HOSTILE[what]
    path = make(tmp_path)
    url = put(f"{memory}/{path.name}", path.read_bytes())
    with pytest.raises((DataError, ConfigError)) as caught:
        read_all(url)
    assert words in str(caught.value)
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["500", "cut"])
def test_a_passing_failure_is_tried_again(tmp_path: Path, fault: str) -> None:
    path = local(tmp_path, "tar")
    files = Files({"/a.tar": path.read_bytes()})
    files.fault = lambda number, path: fault if number % 2 else ""
    with serving(files) as root:
        assert open_images(find_place(f"{root}/a.tar")).digest == open_images(path).digest


def test_names_and_what_a_server_says() -> None:
    names = {
        "memory://a.zip": "a.zip",
        "https://h/x/a.zip?download=true": "a.zip",
        "simplecache::s3://b/c.tar": "c.tar",
    }
    assert {url: Remote(url).name for url in names} == names
    assert kind_of(Remote("https://h/a.tar?x=1")) == ".tar"
    said = urls.explain("hf://x", OSError("404, url='https://cdn.host/a?X-Amz-Signature=secret&b=1' gone"))
    assert "https://cdn.host/a' gone" in str(said)
    assert "secret" not in str(said)


def test_a_refusal_is_not_asked_for_again(tmp_path: Path) -> None:
    files = Files({"/a.zip": local(tmp_path, "zip").read_bytes()})
    files.fault = lambda number, path: "403"
    with serving(files) as root, pytest.raises(EvalkitError, match="403"):
        open_images(find_place(f"{root}/a.zip"))
    assert len(files.gets) <= 2


def test_a_server_that_does_not_answer_is_not_a_missing_file(tmp_path: Path) -> None:
    files = Files({"/a.zip": local(tmp_path, "zip").read_bytes()})
    with serving(files) as root:
        files.head = "500"
        with pytest.raises(ServiceError, match="cannot be read or written: 500"):
            PathOpener(find_place(f"{root}/a.zip")).check()
        files.head = ""
        with pytest.raises(ConfigError, match="nothing is there"):
            PathOpener(find_place(f"{root}/b.zip")).check()
    with pytest.raises(ServiceError, match=r"a\.zip: cannot be read or written: .*onnect"):
        PathOpener(find_place("http://127.0.0.1:9/a.zip")).check()


def test_a_server_without_parts(tmp_path: Path) -> None:
    path = local(tmp_path, "zip")
    big = {f"{i}.bmp": np.random.default_rng(i).bytes(1 << 20) for i in range(9)}  # more than a block
    files = Files({"/a.zip": write_zip(tmp_path / "big.zip", big).read_bytes(), "/b.zip": path.read_bytes()})
    files.ranges = False
    with serving(files) as root:
        with pytest.raises(DataError, match=r"cannot give parts of a file: download it, or give simplecache::http"):
            open_images(find_place(f"{root}/a.zip"))
        assert open_images(find_place(f"simplecache::{root}/b.zip")).digest == open_images(path).digest


def test_the_network_fails_midway_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of which some images were scanned when it goes: the same call reads the others alone."""
    monkeypatch.setattr(scan, "_WAITING", 8)
    files = Files({f"/x/{i:03d}.png": encode_png(image(i)) for i in range(40)})
    cache = tmp_path / "cache"
    with serving(files) as root:
        opening = PathOpener(find_place(f"{root}/x"), ReadOptions(on_error="skip"))
        files.fault = lambda number, path: "500" if path >= "/x/024.png" else ""
        with pytest.raises(ServiceError, match=r"cannot be read or written: 500.*what is finished is kept") as caught:
            opening.open(cache=cache)
        assert "\n" not in str(caught.value)
        files.fault = lambda number, path: ""
        files.gets.clear()
        source = opening.open(cache=cache)
        assert len(source) == 40
        assert not source.warnings  # nothing was left out as broken
        assert min(path for path in files.gets if path.endswith(".png")) == "/x/024.png"
        files.fault = lambda number, path: "500"
        with pytest.raises(ServiceError):
            source.read(range(3))


def test_another_process_reads_nothing_again(tmp_path: Path) -> None:
    """The server tells the file's ETag: its scan is kept by it, until it changes."""
    path = local(tmp_path, "zip")
    files = Files({"/a.zip": path.read_bytes()})
    made: list[str] = []
    plain = scan.make_record
    with serving(files) as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "make_record", lambda *a, **k: made.append(a[1]) or plain(*a, **k))
        first = open_images(find_place(f"{root}/a.zip"), cache=tmp_path / "cache")
        assert len(made) == 6
        assert open_images(find_place(f"{root}/a.zip"), cache=tmp_path / "cache").digest == first.digest
        assert len(made) == 6
        files.files["/a.zip"] = write_zip(tmp_path / "b.zip", pngs(3)).read_bytes()
        assert len(open_images(find_place(f"{root}/a.zip"), cache=tmp_path / "cache")) == 3
        assert len(made) == 9


def test_many_threads_read_one_remote_archive(tmp_path: Path) -> None:
    inside = {f"{i:03d}.png": encode_png(image(i, 90, 90)) for i in range(16)}
    files = Files({"/a.tar": write_tar(tmp_path / "a.tar", inside).read_bytes()})
    with serving(files) as root, ThreadPoolExecutor(8) as pool:
        source = open_images(find_place(f"{root}/a.tar"))
        for i, pixels in enumerate(pool.map(lambda i: source.read(range(i, i + 1))[0], range(16))):
            np.testing.assert_array_equal(pixels, image(i, 90, 90))
    assert len(files.gets) < 4, "blocks are read once, not once an image"


def test_memory_is_that_of_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tar of 90 MB over HTTP, with blocks of 1 MiB: scanned and read within a fraction of that."""
    from PIL import Image

    monkeypatch.setattr(remote, "BLOCK", 1 << 20)
    inside = {}
    for i in range(30):
        buffer = io.BytesIO()
        Image.fromarray(image(i, 1000, 1000)).save(buffer, "BMP")
        inside[f"{i:03d}.bmp"] = buffer.getvalue()
    files = Files({"/a.tar": write_tar(tmp_path / "a.tar", inside).read_bytes()})
    del inside, buffer
    with serving(files) as root:
        tracemalloc.start()
        source = open_images(find_place(f"{root}/a.tar"))
        for i in range(30):
            source.read(range(i, i + 1))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(files.files["/a.tar"]) > 90_000_000
    assert peak < 60_000_000


# Exports ----------------------------------------------------------------------------------------------------------

EXPORTS: dict[str, tuple[type[Export], str]] = {
    "folder": (FolderExport, "cell"),
    "npz": (NpzExport, "cell.npz"),
    "webdataset": (WebDatasetExport, "cell.tar"),
    "parquet": (ParquetExport, "cell-parquet/data/train-00000-of-00001.parquet"),
}


@pytest.mark.parametrize("kind", EXPORTS)
def test_exports_to_a_url_are_read_back_bit_equal(tmp_path: Path, memory: str, kind: str) -> None:
    writer, where = EXPORTS[kind]
    export = writer(to=f"{memory}/out")
    export.check()
    each = Set(MemorySource([image(i) for i in range(70)], ["a cat"] * 70), ["7"] * 70, {})
    put(f"{memory}/out/cell/stale.png", b"of an earlier one") if kind == "folder" else None
    assert [str(path) for path in write_exports({kind: export}, {"cell": each}, tmp_path)] == [
        f"{memory}/out/{where.split('/')[0]}"
    ]
    source = open_images(find_place(f"{memory}/out/{where}"))
    assert len(source) == 70
    for i, pixels in enumerate(source.read(range(70))):
        np.testing.assert_array_equal(pixels, image(i))
    assert [path.name for path in tmp_path.iterdir()] == ["written.json"], "a temporary file was left"


def test_an_export_is_written_again_only_where_it_is_gone_or_failed(
    tmp_path: Path, memory: str, monkeypatch: Any
) -> None:
    export, each = WebDatasetExport(to=memory), Set(MemorySource([image(0)]), [None], {})
    with monkeypatch.context() as patch:
        patch.setattr(Remote, "put", lambda self, file: (_ for _ in ()).throw(ServiceError(f"{self}: is down")))
        with pytest.raises(ServiceError, match="is down"):
            write_exports({"w": export}, {"cell": each}, tmp_path)
    assert not (tmp_path / "written.json").exists()
    for _ in range(2):
        write_exports({"w": export}, {"cell": each}, tmp_path)
    first = fsspec.filesystem("memory").info(f"{memory}/cell.tar")["created"]
    time.sleep(0.01)
    write_exports({"w": export}, {"cell": each}, tmp_path)
    assert fsspec.filesystem("memory").info(f"{memory}/cell.tar")["created"] == first
    fsspec.filesystem("memory").rm(f"{memory}/cell.tar")
    write_exports({"w": export}, {"cell": each}, tmp_path)
    assert len(open_images(find_place(f"{memory}/cell.tar"))) == 1


def test_exports_to_another_folder_and_to_what_takes_no_files(tmp_path: Path) -> None:
    each = Set(MemorySource([image(0)]), [None], {})
    write_exports({"w": WebDatasetExport(to=str(tmp_path / "there"))}, {"cell": each}, tmp_path / "here")
    assert (tmp_path / "there" / "cell.tar").is_file()
    with pytest.raises(ConfigError, match="https:// takes no files"):
        WebDatasetExport(to="https://host/folder").check()
