"""The dependencies; everything else about the package is in pyproject.toml.

Each torchvision fits exactly one torch. Left to itself pip takes the newest torchvision and replaces an installed torch to
match it; so where a torch is installed already, the torchvision that belongs to it is asked for.
"""

import site
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

from setuptools import setup

DEPENDENCIES = [
    # the design card
    "peft>=0.21,<0.22",
    "timm>=1.0.20,<1.1",
    "diffusers>=0.35,<0.43",
    "typer>=0.16",
    "rich>=13.7",
    "pyyaml>=6.0",
    "torchmetrics>=1.8,<2",
    "open-clip-torch>=2.32,<4",
    # what they need beside them
    "accelerate>=1.8",
    "safetensors>=0.5",
    "optuna>=4.2",
    "pydantic>=2.10",
    "numpy>=2.0",
    "pillow>=10.3",
    "pydicom>=3.0",
    "scipy>=1.13",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "scikit-posthocs>=0.9",
    "threadpoolctl>=3.1",
]


def torch_requirements() -> list[str]:
    """Return the requirements for torch and torchvision that keep an installed torch of 2.6 to 2.13."""
    for distribution in distributions(path=_site_folders()):
        if distribution.metadata["Name"] != "torch":
            continue
        major, minor, patch = distribution.version.split("+")[0].split(".")[:3]
        if major == "2" and 6 <= int(minor) <= 13 and patch.isdigit():
            return ["torch>=2.6,<2.14", f"torchvision==0.{int(minor) + 15}.{patch}"]
    return ["torch>=2.6,<2.14", "torchvision>=0.21,<0.29"]


def _site_folders() -> list[str]:
    """Return where the environment that we are installed into keeps its packages (pip builds us in another one)."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    settings = Path(sys.prefix) / "pyvenv.cfg"
    isolated = settings.is_file() and "include-system-site-packages = true" not in settings.read_text()
    if not isolated:
        base = {"base": sys.base_prefix, "platbase": sys.base_prefix}
        folders += [sysconfig.get_path("purelib", vars=base), site.getusersitepackages()]
    return folders


setup(install_requires=[*torch_requirements(), *DEPENDENCIES])
