"""What `pip install .` puts on a machine: the same files as the source tree."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "medpeft_cli"


def test_every_data_file_is_installed():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["medpeft_cli"]
    installed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    needed = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert PACKAGE / "data" / "page.html" in needed
    assert not needed - installed
