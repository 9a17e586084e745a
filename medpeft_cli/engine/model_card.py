"""The README.md beside an exported model: what it is, its numbers and their protocol, how to use it, its recipe."""

import json
from pathlib import Path
from typing import Any

from medpeft_cli.recipe.source import dump_values
from medpeft_cli.report.text import DEMO, clean, markdown
from medpeft_cli.runs.record import Record

LINE = 200  # characters of a value from the record


def model_card(record: Record, pipeline: str, size: int) -> str:
    """Return the card of a tuned text-to-image pipeline as Markdown, with the head that the Hugging Face hub reads.

    Args:
        record: of the run.
        pipeline: hub id, absolute path or bundled name of the pipeline that was tuned.
        size: side of the pictures it was tuned on, pixels.
    """
    data, recipe = record.data, record.data["recipe"]
    base = clean(_without_folder(pipeline), LINE)
    method = clean(data.get("method_title") or recipe["method"]["name"])
    dataset = clean(data.get("card", {}).get("title") or recipe["data"]["card"])
    head = {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": ["medpeft", recipe["method"]["name"]]}
    if "/" in base:
        head["base_model"] = base
    sections = [
        f"---\n{dump_values(head)}---",
        f"# {markdown(base.rpartition('/')[2])} · {markdown(method)} · {markdown(dataset)}",
        "A Stable Diffusion pipeline of diffusers whose U-Net was tuned by medpeft, and the tuning folded into its "
        "weights. Its pictures are synthetic: not for diagnosis.",
        f"**{DEMO}**" if record.data["demo"] else "",
        _rows(_facts(record, base, method, dataset, size), ("", "")),
        "## Numbers",
        _numbers(data.get("metrics", {}).get("test")),
        "## Use",
        _use(recipe, size),
        "## Recipe",
        f"```yaml\n{dump_values(_without_places(recipe))}```",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _facts(record: Record, base: str, method: str, dataset: str, size: int) -> list[tuple[str, str]]:
    """Return (what, value) of the run; what the record does not say is left out."""
    data, recipe = record.data, record.data["recipe"]
    counts, selection, timing = (data.get(name, {}) for name in ("parameters", "selection", "timing"))
    images = data.get("data", {}).get("train_images")
    versions = data.get("environment", {}).get("versions", {})
    settings = [f"{name} {value}" for name, value in recipe["method"].items() if name != "name" and value is not None]
    rows = [
        ("Tuned from", base),
        ("Its U-Net, SHA-256", data.get("weights", {}).get("sha256", "")),
        ("Method", ", ".join([method, *settings])),
        ("Data", f"{dataset}, {images:,} training pictures with texts" if images is not None else dataset),
        ("Pictures", f"{size} × {size} pixels"),
        ("Trained", f"{counts['method']:,} of {counts['total']:,} parameters of the U-Net" if counts else ""),
        ("Steps", f"{recipe['train']['steps']:,}, weights of step {selection.get('step', recipe['train']['steps']):,}"),
        ("Training time", f"{timing['train_seconds']:,.0f} s" if "train_seconds" in timing else ""),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ("Run", f"{data['id']} (seed {recipe['seed']})"),
    ]
    return [(name, clean(value, LINE)) for name, value in rows if value]


def _numbers(test: dict[str, Any] | None) -> str:
    """Return the table of metrics with their intervals, and how they were measured."""
    if not test:
        return "Not evaluated yet: `medpeft evaluate RUN` does it."
    rows = []
    for name, entry in test["overall"].items():
        low, high = entry.get("low"), entry.get("high")
        interval = f"{_number(low)} to {_number(high)}" if low is not None and high is not None else "–"
        rows.append((name, _number(entry["value"]), interval))
    protocol = [(clean(name), clean(_plain(value), LINE)) for name, value in test.get("protocol", {}).items()]
    parts = [_rows(rows, ("Metric", "Value", "Interval"))]
    if protocol:
        parts += ["How they were measured:", _rows(protocol, ("", ""))]
    return "\n\n".join(parts)


def _use(recipe: dict[str, Any], size: int) -> str:
    sample = recipe["sample"]
    return f"""```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("FOLDER")  # the one this file is in
picture = pipe(
    "PROMPT", num_inference_steps={sample["steps"]}, guidance_scale={sample["guidance"]}, height={size}, width={size}
).images[0]
```"""


def _without_places(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe less what says where it ran: folders, device, workers."""
    kept = {name: value for name, value in recipe.items() if name not in ("device", "workers")}
    kept["data"] = {name: value for name, value in recipe["data"].items() if name != "root"}
    kept["pipeline"] = {name: _without_folder(value) for name, value in recipe["pipeline"].items()}
    return kept


def _without_folder(name: Any) -> Any:
    """Return the last part of a path on this machine; anything else as it is."""
    return Path(name).name if isinstance(name, str) and Path(name).is_absolute() else name


def _rows(rows: list[tuple[str, ...]], heads: tuple[str, ...]) -> str:
    lines = [heads, ("---",) * len(heads), *(tuple(map(markdown, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
