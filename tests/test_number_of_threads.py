"""The same bits under any number of threads: a whole small run, in a process of one thread and in one of two."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command import evalkit_process, results

RUN = (
    "experiment=digits",
    "model=[digits_dcgan,digits_ldm]",
    "sampler=[ddim]",
    "sampler.ddim.num_inference_steps=2",
    "model.digits_ldm.guidance_scale=4",
    "num_samples=300",  # a shard, and one whose last batch is small
    "metric=[fid_digits,kid_digits,precision_digits,recall_digits,vendi_digits]",
    "device=cpu",
    "report=false",
    "name=small",
)


def made(folder: Path, threads: int) -> tuple[dict[str, bytes], dict[str, str]]:
    """Images and features of a run by file, and its scores in hex."""
    folder.mkdir()
    done = evalkit_process(*RUN, cwd=folder, OMP_NUM_THREADS=str(threads))
    assert done.returncode == 0, done.stderr
    kinds = ("samples/**/*.png", "features/**/*.safetensors")
    files = {f.relative_to(folder).as_posix(): f.read_bytes() for kind in kinds for f in (folder / "runs").glob(kind)}
    rows = results(folder / "runs" / "small")["rows"]
    return files, {
        f"{row['cell']} {row['metric']}": json.dumps([row["value"].hex(), (row["stderr"] or 0.0).hex()])
        for row in rows
        if row["metric"].endswith("_digits")
    }


@pytest.mark.slow
def test_a_run_of_two_threads_gives_the_bits_of_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda threads: made(tmp_path / str(threads), threads), (1, 2))
    assert len(one[1]) == 2 * 5
    assert sum(name.endswith(".safetensors") for name in one[0]) > 1
    assert one == two
