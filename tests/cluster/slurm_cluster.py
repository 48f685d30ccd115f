"""A real Slurm on this host: munge, a controller and two nodes on loopback ports, all files in a folder of its own.

No accounting, so no sacct, as on clusters without slurmdbd. Needs Debian's packages slurm-wlm and munge, and root (a
slurmd that is not root cannot start jobs). By hand, with Slurm's commands on the cluster that is up:

    python tests/cluster/slurm_cluster.py bash
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

NODES = ("node1", "node2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # the daemons
START = 30.0  # seconds that the controller and the nodes have to come up

CONF = """
ClusterName=evalkit-{name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=30
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=100000
KillWait=10
MinJobAge=5
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=half Nodes={first} MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """What this host lacks of Slurm."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Starts a cluster; gives the environment in which its commands find it. All of its processes end with it.

    Args:
        folder: for its files; a short path (munge's socket has 107 characters at most).
    """
    daemons: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    for name in list(environment):
        if name.startswith(("SLURM_", "SBATCH_", "SQUEUE_")) and name != "SLURM_CONF":
            del environment[name]

    def start(*command: str) -> None:
        log = (folder / f"{command[0]}.out").open("ab")
        daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))
        log.close()

    try:
        _write_files(folder)
        start("munged", "--foreground", "--force", *_munge_options(folder))
        _await(lambda: (folder / "munge.socket").exists(), "munged", folder)
        start("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        for node in NODES:
            start("slurmd", "-D", "-N", node, "-f", str(folder / "slurm.conf"))
        _await(lambda: _idle(environment) == len(NODES), "the nodes", folder)
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root", "--signal=KILL"], env=environment, timeout=10, capture_output=True)
        for daemon in reversed(daemons):  # the nodes first, which end their jobs' steps; munge last
            daemon.terminate()
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        _end_steps(folder)


def _write_files(folder: Path) -> None:
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(64))
    key.chmod(0o400)
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    ports = _free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=2000"
        for node, port in zip(NODES, ports[1:], strict=True)
    )
    name, host = secrets.token_hex(3), socket.gethostname()
    conf = CONF.format(folder=folder, ports=ports, nodes=nodes, name=name, host=host, first=NODES[0])
    (folder / "slurm.conf").write_text(conf)
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # asked for though no plugin uses it


def _munge_options(folder: Path) -> list[str]:
    names = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    return [*(f"--{option}={folder / name}" for option, name in names.items()), f"--log-file={folder / 'munge.log'}"]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _idle(environment: dict[str, str]) -> int:
    """How many nodes are ready."""
    command = ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%T"]
    try:
        told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:
        return 0
    return told.stdout.split().count("idle")


def _await(ready: object, what: str, folder: Path) -> None:
    assert callable(ready)
    end = time.monotonic() + START
    while not ready():
        if time.monotonic() > end:
            logs = "".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.[ol][uo]?")))
            raise RuntimeError(f"{what} did not come up in {START:.0f} s:\n{logs}")
        time.sleep(0.1)


def _end_steps(folder: Path) -> None:
    """slurmstepd and what it runs outlive their slurmd; each has the cluster's configuration in its environment."""
    mark = f"SLURM_CONF={folder / 'slurm.conf'}".encode()
    for _ in range(2):
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                own = int(process.name) in (os.getpid(), os.getppid())
                if not own and mark in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)
        time.sleep(0.2)


if __name__ == "__main__":
    if missing_programs():
        sys.exit(f"missing: {', '.join(missing_programs())}: apt-get install slurm-wlm munge")
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, slurm_cluster(Path(name)) as environment:
        sys.exit(subprocess.run(sys.argv[1:] or ["sinfo"], env=environment).returncode)
