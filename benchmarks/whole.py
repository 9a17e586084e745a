"""Device-hours of the paper's whole benchmark, by table, and what doing frozen work once and compiling save of them.

    python -m benchmarks.whole [--grid recipes/paper/all.yaml] [--largest 60] [--pictures 2] [--device auto] [--json FILE]

Forward and backward passes of each backbone are timed on noise, at the size and in the precision of its recipes. Methods
count as one of three: `linear`, `full`, and all others as bias tuning. A network of more GFLOP a forward pass than --largest is
not timed: its times are those of the largest that was, in proportion to the GFLOP. The recipes say how many pictures go through:
searches (shared by the seeds), epochs, validation, test, reload check, and for text-to-image the generated pictures. Optimiser
steps, data, VAE and text encoder are left out. On a CPU the hours are those of this machine, extrapolated.
"""

import argparse
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medpeft_cli import compat  # noqa: F401  (before timm)

# isort: split
import timm
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Row, compare, save
from medpeft_cli.data.card import load_card
from medpeft_cli.engine.assembly import pick_device
from medpeft_cli.engine.compile import compiled
from medpeft_cli.engine.denoise import VALIDATION_PICTURES
from medpeft_cli.engine.loop import autocast
from medpeft_cli.engine.text_to_image import SAMPLES
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import Adapted, adapt, hold_norms
from medpeft_cli.models.sites import example_inputs, family_of
from medpeft_cli.recipe.grid import expand
from medpeft_cli.recipe.identity import study_id
from medpeft_cli.recipe.schema import ClassifyRecipe, GenerateRecipe, Recipe

ROOT = Path(__file__).resolve().parents[1]
PAPER_TRAIN = {"smdg": 9852}  # training pictures of a dataset whose card has no count
SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}  # of the published U-Net; the rest is as diffusers has it
REPEATS = 3
LATENT_PIXELS = 8  # of a picture's side to one of its latents'


class Network(NamedTuple):
    """What decides the time of a picture."""

    name: str  # timm's architecture, or "unet"
    size: int  # side of what it reads: pixels, or of latents
    precision: str


class Passes(NamedTuple):
    """Pictures that go through a network: `trained` forward and backward, `seen` forward alone."""

    trained: float
    seen: float


@dataclass(frozen=True)
class Work:
    """What a run, or a search, asks for.

    Attributes:
        network: that is tuned.
        group: of its method.
        table: in which it is first needed.
        everything: with nothing kept.
        frozen_once: with frozen work done once.
        unaugmented: the same, if linear probing were trained without augmentation.
    """

    network: Network
    group: str
    table: str
    everything: Passes
    frozen_once: Passes
    unaugmented: Passes


def group_of(recipe: Recipe) -> str:
    """Return the group of a recipe's method."""
    return recipe.method.name if recipe.method.name in ("linear", "full") else "others"


def network_of(recipe: Recipe) -> Network:
    """Return the network of a recipe, at its size."""
    if isinstance(recipe, GenerateRecipe):
        return Network("unet", (recipe.pipeline.size or 512) // LATENT_PIXELS, recipe.train.precision)
    assert isinstance(recipe, ClassifyRecipe)
    name = recipe.backbone.name
    size = recipe.backbone.input.size or timm.get_pretrained_cfg(name).input_size[1]
    return Network(name.split(".")[0], size, recipe.train.precision)


def build(network: Network, group: str) -> Adapted:
    """Return an adapted network without memory, on the meta device."""
    method = METHODS["bias" if group == "others" else group]
    with torch.device("meta"):
        if network.name == "unet":
            return adapt(UNet2DConditionModel(**SD15), "unet", method, method.config())
        model = timm.create_model(network.name, num_classes=7)
        return adapt(model, family_of(model), method, method.config())


def gflop(network: Network) -> float:
    """Return what a forward pass of one picture takes; nothing is computed."""
    adapted = build(network, "full")
    inputs, options = example_inputs(adapted.model, adapted.family, network.size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        adapted.model(*inputs, **options)
    return counter.get_total_flops() / 1e9


def rates(
    network: Network, group: str, pictures: int, device: torch.device, wanted: bool = False
) -> tuple[float, float]:
    """Return pictures a second that are trained, and that are seen; the first pass of each is not counted."""
    adapted = build(network, group)
    model = adapted.model.to_empty(device=device)
    for tensor in (*model.parameters(), *model.buffers()):
        torch.nn.init.constant_(tensor, 0.01 if tensor.is_floating_point() else 0)  # drawing them would take longer
    inputs, options = example_inputs(model, adapted.family, network.size, pictures)

    def forward() -> torch.Tensor:
        with autocast(device, network.precision):
            output = model(*inputs, **options)
        return (output[0] if isinstance(output, tuple) else output).float().sum()

    def train() -> None:
        forward().backward()

    model.train()
    hold_norms(adapted)
    with compiled(model, wanted):
        trained = pictures / _seconds(train, device)
    model.eval()
    with torch.inference_mode():
        seen = pictures / _seconds(forward, device)
    return trained, seen


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def works(grid: Path) -> Iterator[Work]:
    """Yield the runs of a grid, and the searches that they share, each once."""
    met: set[object] = set()
    for cell in expand(grid):
        recipe = cell.recipe
        passes = _generate if isinstance(recipe, GenerateRecipe) else _classify
        parts = [passes(recipe, met, of_search=False)]
        if recipe.search.trials and (study := study_id(recipe)) not in met:
            met.add(study)
            parts.append(passes(recipe, met, of_search=True))
        for three in parts:
            yield Work(network_of(recipe), group_of(recipe), cell.grids[0], *three)


def _classify(recipe: ClassifyRecipe, met: set[object], *, of_search: bool) -> tuple[Passes, Passes, Passes]:
    """Return what a classification asks for: with nothing kept, with frozen work done once, and without augmentation too."""
    card = load_card(recipe.data.card)
    shares = card.split.fractions
    classes = sum(card.expected.get(name, 0) for name in card.classes)
    total = card.expected.get("images", classes) or PAPER_TRAIN[card.name] / shares[0]
    whole, val, test = (share * total for share in shares)
    train = whole * recipe.data.fraction if recipe.data.k_shot is None else recipe.data.k_shot * len(card.classes)
    search, epochs = recipe.search, recipe.train.epochs
    times = search.trials * search.length if of_search else 1
    trained = times * epochs * train
    validated = times * epochs * val
    ends = 0 if of_search else 2 * val + test  # the outputs that are kept, those of the reloaded model, the test split
    everything = Passes(trained, validated + ends)
    if recipe.method.name != "linear":
        return everything, everything, everything
    place = (network_of(recipe), recipe.backbone.name, recipe.data.card)
    checks = 0 if of_search else 2 * min(recipe.evaluate.batch_size, val) + test
    seen = checks + _first(("val", *place), met, val)
    table = _first(("train", *place), met, whole)
    return everything, Passes(trained, seen), Passes(0, seen + table)


def _first(key: object, met: set[object], size: float) -> float:
    """Return the size the first time that a key is met, then 0."""
    if key in met:
        return 0.0
    met.add(key)
    return size


def _generate(recipe: GenerateRecipe, met: set[object], *, of_search: bool) -> tuple[Passes, Passes, Passes]:
    """Return what a text-to-image training asks of its U-Net; nothing of it is frozen work."""
    train, sample, search = recipe.train, recipe.sample, recipe.search
    steps = train.steps * (search.trials * search.length if of_search else 1)
    each = sample.steps * (2 if sample.guidance > 1 else 1)
    drawn = 0 if of_search else SAMPLES * each
    seen = steps / train.validate_steps * (VALIDATION_PICTURES + drawn)
    if not of_search:
        seen += (sample.prompts or 0) * sample.count * each + 2 * VALIDATION_PICTURES
    passes = Passes(steps * train.batch_size, seen)
    return passes, passes, passes


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the measured rates, and the hours of each table."""
    device = pick_device(options.device)
    unit = "GPU-h" if device.type == "cuda" else "CPU-h, extrapolated"
    todo = list(works(options.grid))
    pairs = sorted({(work.network, work.group) for work in todo})
    sizes = {network: gflop(network) for network in sorted({network for network, _ in pairs})}
    pace: dict[tuple[Network, str], tuple[float, float]] = {}
    for network, group in sorted(pairs, key=lambda pair: sizes[pair[0]]):
        size, what = sizes[network], f"{network.name} {group}, {network.size} px, {sizes[network]:.0f} GFLOP"
        if size <= options.largest:
            pace[network, group] = rates(network, group, options.pictures, device)
        else:  # in proportion to the largest that was timed
            timed = max(
                (other for other, its in pace if its == group and sizes[other] <= options.largest),
                key=sizes.__getitem__,
            )
            pace[network, group] = tuple(rate * sizes[timed] / size for rate in pace[timed, group])  # type: ignore[assignment]
            what += f", by {timed.name}"
        yield compare("whole", f"{what}: trained / only seen", "images/s", *([rate] for rate in pace[network, group]))

    def hours(of: Callable[[Work], Passes], faster: float = 1.0) -> Counter[str]:
        """Return them by table; but linear probing, training is so many times faster."""
        spent: Counter[str] = Counter()
        for work in todo:
            trained, seen = pace[work.network, work.group]
            passes = of(work)
            taken = (passes.trained / trained / (1 if work.group == "linear" else faster) + passes.seen / seen) / 3600
            for place in (work.table, "all", *(["all of linear probing"] if work.group == "linear" else [])):
                spent[place] += taken
        return spent

    anew = hours(lambda work: work.everything)
    cases = {
        "frozen work once": hours(lambda work: work.frozen_once),
        "and linear probing unaugmented": hours(lambda work: work.unaugmented),
    }
    network = max(
        (network for network, group in pairs if group == "others" and sizes[network] <= options.largest),
        key=sizes.__getitem__,
    )
    faster = rates(network, "others", options.pictures, device, wanted=True)[0] / pace[network, "others"][0]
    cases[f"frozen work once, and compiled: {faster:.2f} × by {network.name}"] = hours(
        lambda work: work.frozen_once, faster
    )
    for case, spent in cases.items():
        for table in sorted(anew):
            yield compare("whole", f"{table}: {case}", unit, [spent[table]], [anew[table]])


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; what is not given suits the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=Path, default=ROOT / "recipes/paper/all.yaml")
    parser.add_argument("--largest", type=float, help="GFLOP a forward pass; default: 60 on a CPU, on a GPU no limit")
    parser.add_argument("--pictures", type=int, help="at once; default: 2 on a CPU, 64 on a GPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    options = parser.parse_args(words)
    on_gpu = pick_device(options.device).type == "cuda"
    if options.largest is None:
        options.largest = math.inf if on_gpu else 60
    if options.pictures is None:
        options.pictures = 64 if on_gpu else 2
    return options


def main() -> None:
    """Print the rows."""
    options = arguments()
    found = []
    for row in rows(options):
        print(row, flush=True)
        found.append(row)
    if options.json:
        save(found, options.json)


if __name__ == "__main__":
    main()
