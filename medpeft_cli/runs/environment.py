"""Where a run was made: versions, machine, source revision."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medpeft_cli.runs import ranks

PACKAGES = (
    "medpeft",
    "torch",
    "torchvision",
    "timm",
    "peft",
    "diffusers",
    "transformers",
    "safetensors",
    "numpy",
    "pillow",
)


def describe_environment() -> dict[str, Any]:
    """Return package versions, Python, platform, git revision of the source, processes, and the SLURM job if there is one."""
    return {
        "versions": versions(PACKAGES),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "git": git_revision(Path(__file__).parent),
        "processes": ranks.here.size,
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
    }


def cores() -> int:
    """Return how many processors this process may use, its part of them where others of its run share them."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, found // ranks.here.sharing)


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each package, None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def describe_device(device: str) -> dict[str, Any]:
    """Return the name of the device and what bounds its arithmetic."""
    import torch

    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "device": device,
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
        }
    return {"device": device, "name": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}


def git_revision(folder: Path) -> dict[str, Any] | None:
    """Return commit and whether the tree has changes; None where git does not track this package."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
