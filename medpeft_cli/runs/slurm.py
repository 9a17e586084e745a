"""What a run asks SLURM: which job it is, whether a job still runs, and to be started again."""

import os
import re
import subprocess

HALTED = ("SUSPENDED", "STOPPED")
WORKING = ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", *HALTED)


def own_job() -> str | None:
    """Return the id of the job that this process is in; of an array's task `<array>_<task>`, since its plain id may be the array's."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def own_restart() -> int:
    """Return how often the job of this process was requeued."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def own_cluster() -> str | None:
    """Return the name of the cluster that this process's job is on."""
    return os.environ.get("SLURM_CLUSTER_NAME")


def this_cluster() -> str | None:
    """Return the name of the cluster whose SLURM answers here; None if none does."""
    done = _run("scontrol", "show", "config")
    found = re.search(r"^ClusterName\s*=\s*(\S+)", done.stdout, re.M) if done else None
    return found[1] if found else None


def job_state(job: str) -> str | None:
    """Return SLURM's word for the state of a job, such as RUNNING; "" if it is over, None if SLURM cannot be asked."""
    done = _run("squeue", "-h", "-j", job, "-o", "%T")
    if done is None or (done.returncode and "Invalid job id" not in done.stderr):
        return None
    return (done.stdout.split() or [""])[0]


def requeue(job: str) -> str | None:
    """Have a job started again from the beginning; return None, or SLURM's words if it refuses."""
    done = _run("scontrol", "requeue", job)
    if done is None:
        return "scontrol did not answer"
    return None if done.returncode == 0 else done.stderr.strip() or f"scontrol ended with {done.returncode}"


def first_host(hosts: str) -> str:
    """Return the first machine of a list as SLURM writes them, such as node[01-04]; the list itself where SLURM cannot be asked."""
    done = _run("scontrol", "show", "hostnames", hosts)
    return next(iter(done.stdout.split()), hosts) if done else hosts


def _run(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
