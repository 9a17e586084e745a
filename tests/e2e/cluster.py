"""A SLURM cluster of one node on this machine, from Debian's packages; needs root. No systemd, no cgroups, nothing in /etc.

Partitions: main; low, whose jobs are preempted (requeued) by those in high.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
SEARCH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it may start (default 120 s)
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# believe CPUs= below, not what the machine has
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=n1 Default=YES MaxTime=INFINITE State=UP PriorityTier=5 PreemptMode=OFF
PartitionName=low Nodes=n1 MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=high Nodes=n1 MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""


def missing() -> str:
    """Return what keeps this machine from being a cluster; "" = nothing."""
    if os.geteuid():
        return "a SLURM cluster of our own needs root"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=SEARCH)]
    return f"no {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge" if absent else ""


@contextmanager
def cluster(folder: Path, cpus: int) -> Iterator[dict[str, str]]:
    """Run a cluster in an empty folder; yields the environment in which sbatch and the rest reach it."""
    for name in ("munge", "state", "node"):
        (folder / name).mkdir()
    key = folder / "munge/key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    ports = []
    with ExitStack() as held:
        for _ in range(2):
            ports.append(held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1])
    config = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    config.write_text(CONFIG.format(host=host, ports=ports, folder=folder, cpus=cpus))
    environment = {"SLURM_CONF": str(config)}
    munged = ["munged", "-F", "--force", "-S", f"{folder}/munge/socket", f"--key-file={key}"]
    munged += [f"--{name}={folder}/munge/{name}" for name in ("seed-file", "pid-file", "log-file")]
    with ExitStack() as daemons:
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"]):
            daemons.enter_context(_daemon(command, folder / f"{command[0]}.out", environment))
        try:
            end = time.monotonic() + 30
            while _asked(environment, "sinfo", "-h", "-p", "main", "-o", "%T") != "idle":
                assert time.monotonic() < end, (folder / "slurmctld.log").read_text()[-2000:]
                time.sleep(0.1)
            yield environment
        finally:
            _asked(environment, "scancel", "--me")
            end = time.monotonic() + 20
            while _asked(environment, "squeue", "-h") and time.monotonic() < end:
                time.sleep(0.1)


@contextmanager
def _daemon(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    program = shutil.which(command[0], path=SEARCH)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [program, *command[1:]], env=os.environ | environment | {"PATH": SEARCH}, stdin=subprocess.DEVNULL,
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _asked(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=30)
    return done.stdout.strip()
