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


@pytest.mark.parametrize("arguments", [(), ("list",)])
def test_a_command_that_needs_another_shows_its_help(root, arguments):
    command = [sys.executable, "-m", "medpeft_cli", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("Usage: ") and "Examples:" in done.stdout or "Exit codes:" in done.stdout


@pytest.mark.parametrize(
    "command", ["list methods --json", "list methods", "list encoders", "validate recipes/isic_ssf.yaml"]
)
def test_a_reader_that_leaves_is_no_error(root, command):
    # the reader takes nothing and is gone before anything is written
    script = f"set -o pipefail; (sleep 0.3; {sys.executable} -m medpeft_cli {command}) | true"
    done = subprocess.run(["bash", "-c", script], cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_validate_of_wrong_recipes_prints_no_table(root, tmp_path):
    (tmp_path / "r.yaml").write_text("task: classify\n")
    command = [sys.executable, "-m", "medpeft_cli", "validate", str(tmp_path / "r.yaml")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == "" and "data: got nothing" in done.stderr


def test_report_does_without_torch(root, tmp_path):
    _, heavy = modules_after(root, "report", str(tmp_path))
    assert not set(heavy) & set(HEAVY) - {"numpy"}


def test_training_does_not_wait_for_what_only_scoring_and_drawing_need():
    lines = "medpeft_cli.engine.text_to_image, medpeft_cli.engine.classify, medpeft_cli.demo.twins"
    code = (
        f"import sys, {lines}; print(sorted({{'matplotlib', 'torchmetrics', 'sklearn', 'pandas'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    code = "import sys, medpeft_cli.demo.twins; print('scipy.ndimage' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
