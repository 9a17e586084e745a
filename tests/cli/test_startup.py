"""The commands that only read start without the heavy libraries."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "timm", "peft", "pandas", "matplotlib", "scipy", "sklearn", "PIL")


def modules_after(root, *arguments):
    """Run a command and return its exit code and the heavy modules it has imported."""
    code = (
        "import sys, json\n"
        f"sys.argv = ['medpeft', *{list(arguments)!r}]\n"
        "from medpeft_cli.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    status = end.code\n"
        f"print(json.dumps([status or 0, [m for m in {HEAVY!r} if m in sys.modules]]), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    return json.loads(done.stderr.strip().splitlines()[-1])


def test_help_imports_nothing_heavy(root):
    assert modules_after(root, "--help") == [0, []]
    assert modules_after(root, "finetune", "--help") == [0, []]


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "methods"),
        ("list", "datasets"),
        ("list", "backbones"),
        ("list", "recipes", "--json"),
        ("list", "encoders"),
        ("validate", "recipes/isic_ssf.yaml"),
        ("validate", "recipes/isic_ssf.yaml", "--demo"),
        ("sweep", "plan", "recipes/paper/table2.yaml"),
        ("sweep", "status", "recipes/paper/table2.yaml", "--demo"),
    ],
)
def test_reading_commands_do_without_torch(root, arguments):
    status, heavy = modules_after(root, *arguments)
    assert status == 0
    assert not set(heavy) & set(HEAVY)


def test_report_does_without_torch(root, tmp_path):
    _, heavy = modules_after(root, "report", str(tmp_path))
    assert not set(heavy) & set(HEAVY) - {"numpy"}
