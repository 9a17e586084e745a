"""Measure medpeft beside the limit and beside what people use, and write the tables of docs/benchmarks.md.

    python -m benchmarks [PART …] [--json FILE]

Without a name every part is run. Each part writes its own table with the machine and the day; the others stay as they are.
"""

import argparse
import importlib
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

from benchmarks.measure import Row, markdown, save
from medpeft_cli.console import console
from medpeft_cli.files import write_text
from medpeft_cli.runs.environment import cores, describe_device, versions

PARTS = (  # modules here with arguments(words) → options and rows(options) → Rows
    "finetune", "peers", "frozen", "memory", "text_to_image", "startup", "whole",
)  # fmt: skip
PAGE = Path(__file__).parents[1] / "docs/benchmarks.md"
PACKAGES = ("torch", "timm", "transformers", "peft", "diffusers", "numpy", "pillow")


def machine() -> str:
    """Return hardware, versions and day in one line."""
    from medpeft_cli.engine.assembly import pick_device

    device = pick_device("auto")
    names = (
        re.findall(r"^model name\s*: (.*)$", cpu.read_text(), re.M) if (cpu := Path("/proc/cpuinfo")).exists() else []
    )
    parts = [f"{cores()} cores of {names[0] if names else platform.processor() or platform.machine()}"]
    if device.type == "cuda":
        parts.append(describe_device(str(device))["name"])
    parts += [
        f"Python {platform.python_version()}",
        *(f"{name} {number}" for name, number in versions(PACKAGES).items()),
    ]
    return f"{', '.join(parts)}; {date.today().isoformat()}"


def written(page: str, part: str, rows: Sequence[Row], about: str) -> str:
    """Return the page with a part's table in it, between the marks that name the part."""
    begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
    before, found, rest = page.partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"{PAGE}: no place for {part!r}: a line {begin} and a line {end}")
    return f"{before}{begin}\n{about}\n\n{markdown(rows)}\n{end}{rest.partition(end)[2]}"


def run(part: str) -> Iterable[Row]:
    """Yield the rows of a part as they are measured."""
    module = importlib.import_module(f"benchmarks.{part}")
    yield from module.rows(module.arguments([]))


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default all: {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    console.quiet = True
    about, measured = machine(), []
    print(about)
    for part in options.parts or PARTS:
        rows = []
        for row in run(part):
            print(row, flush=True)
            rows.append(row)
        write_text(PAGE, written(PAGE.read_text(), part, rows, about))
        measured += rows
    if options.json is not None:
        save(measured, options.json)
    missed = [row for row in measured if not row.met]
    print(f"{len(measured)} rows, {len(missed)} beside their target; written to {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
