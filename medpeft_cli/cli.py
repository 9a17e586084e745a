"""The commands. Each body is one straight line: load, call, print; heavy imports stand inside."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medpeft_cli.console import console
from medpeft_cli.errors import MedpeftError, RecipeError, RunError
from medpeft_cli.options import Demo, Results, Set, Weights
from medpeft_cli.options import examples as _examples
from medpeft_cli.sweep.commands import sweep_app

if TYPE_CHECKING:
    from medpeft_cli.report import Report

GLOBAL_OPTIONS = ("--json", "--quiet", "--verbose")
GLOBAL_HELP = """--json, --quiet and --verbose go with every command, before or behind its name.

\b
Exit codes: 0 done, 2 recipe or arguments, 3 data or weights,
            4 training or scoring, 130 Ctrl-C."""


app = typer.Typer(
    name="medpeft",
    help="Parameter-efficient fine-tuning for medical images: prepare, finetune, generate, evaluate, report.",
    epilog=GLOBAL_HELP,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
list_app = typer.Typer(
    help="Show what there is: methods, datasets, backbones, recipes, encoders.",
    epilog=_examples("medpeft list methods", "medpeft list backbones convnext --json"),
    rich_markup_mode=None,
)
app.add_typer(list_app, name="list")
app.add_typer(sweep_app, name="sweep")


@app.callback()
def global_options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON (stdout).")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress and no decisions, only results and warnings.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Also say where each value of the recipe came from.")
    ] = False,
) -> None:
    """Take the options that go with every command."""
    console.json, console.quiet, console.verbose = json, quiet, verbose
    if version:
        from importlib.metadata import version as installed

        print(installed("medpeft"))
        raise typer.Exit


@app.command(
    epilog=_examples(
        "medpeft prepare breastus --source ~/Downloads/Dataset_BUSI_with_GT",
        "medpeft prepare my_card.yaml --source ~/pictures --root data/mine --check",
        "medpeft prepare mimic_cxr                               # licence, how to get it, which files",
        "medpeft prepare mimic_cxr --source DIR --list-files --fraction 0.1 > files.txt",
        "medpeft prepare my_card.yaml --init-card ~/pictures     # write a card for a folder",
        "medpeft prepare --models recipes/paper/table3.yaml      # weights, for nodes without a network",
    )
)
def prepare(
    card: Annotated[
        str | None,
        typer.Argument(metavar="CARD", help="Dataset card: a name of `medpeft list datasets`, or your own YAML file."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--source",
            metavar="DIR",
            help="Folder of the downloaded files, or the .npz; never changed. Without it: how to get the dataset.",
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="DIR", help="Where the prepared dataset goes. Default: data/<card>."),
    ] = None,
    size: Annotated[
        int,
        typer.Option(
            "--size", metavar="PIXELS", help="Short side of a packed picture at most; never enlarged.", min=16
        ),
    ] = 256,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Seed of a stratified split. Default: the card's.", min=0)
    ] = None,
    allow_bad: Annotated[
        int,
        typer.Option(
            "--allow-bad", metavar="N", help="Leave out up to N unreadable pictures; one more is an error.", min=0
        ),
    ] = 0,
    on_leak: Annotated[
        str | None,
        typer.Option(
            "--on-leak",
            metavar="move|drop|allow",
            help="Pictures of an official split that are also in a more protected split (test before val before train): "
            "move them there, drop them, or allow them. Default: an error that lists them.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", help="Processes that decode. Default: one a processor.", min=1),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Decode and check everything, write nothing.")] = False,
    init_card: Annotated[
        Path | None,
        typer.Option(
            "--init-card", metavar="DIR", help="Look at a folder and write the draft of its card to CARD, or print it."
        ),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            "--models", metavar="GRID", help="Load once every weight that the runs of a grid need, into the caches."
        ),
    ] = None,
    list_files: Annotated[
        bool,
        typer.Option("--list-files", help="Print the picture files that are needed, by the tables in --source alone."),
    ] = False,
    views: Annotated[
        str | None,
        typer.Option("--views", metavar="LIST", help="With --list-files: views, such as PA,AP. Default: the card's."),
    ] = None,
    splits: Annotated[
        str | None,
        typer.Option("--splits", metavar="LIST", help="With --list-files: splits, such as val,test. Default: all."),
    ] = None,
    fraction: Annotated[
        float,
        typer.Option(
            "--fraction", metavar="F", help="With --list-files: fraction of the training pictures.", min=0.0, max=1.0
        ),
    ] = 1.0,
) -> None:
    """Turn a raw download into a split, packed, hashed dataset, or fetch the weights that a grid needs.

    Running it again on the same files changes nothing; after an interruption it goes on where it stopped. Several of these
    commands at once, also on several hosts with one file system, share the work.
    """
    if models:
        _fetch_models(models)
        return
    from medpeft_cli.data.card import load_card

    if init_card:
        from medpeft_cli.data.draft import write_draft

        text, found = write_draft(init_card, card)
        console.result({"card": card, "text": text, "found": found}, card or text.rstrip())
        return
    if card is None:
        raise RecipeError(
            "prepare: no card given", "`medpeft list datasets` shows ours; --init-card DIR drafts your own"
        )
    loaded = load_card(card)
    if list_files:
        from medpeft_cli.data.guide import file_list

        files = file_list(loaded, source, views, splits, fraction)
        console.result(files, "\n".join(files))
        return
    if source is None:
        from medpeft_cli.data.guide import facts, guide

        console.result(facts(loaded), guide(loaded, card))
        return
    from medpeft_cli.data.leaks import leak_choice
    from medpeft_cli.data.prepare import prepare as prepare_dataset

    root = root or Path("data") / Path(card).stem
    manifest = prepare_dataset(
        loaded, source, root,
        size=size, seed=seed, check=check, allow_bad=allow_bad, on_leak=leak_choice(on_leak), workers=workers,
    )  # fmt: skip
    console.result(manifest.info, None if check else str(root / "manifest.csv"))


def _fetch_models(grid: Path) -> None:
    from medpeft_cli.recipe.grid import expand

    recipes = [cell.recipe for cell in expand(grid)]
    from medpeft_cli.engine.fetch import fetch_weights

    found, problems = fetch_weights(recipes)
    console.table([one._asdict() for one in found], ["name", "kind", "bytes"])
    if not console.json:
        print(f"total {sum(one.bytes for one in found) / 1e9:,.3g} GB")
    for error in problems:
        console.error(error)
    if problems:
        raise typer.Exit(problems[0].exit_code)


@app.command(
    epilog=_examples(
        "medpeft finetune recipes/isic_ssf.yaml",
        "medpeft finetune recipes/isic_lora.yaml --demo --set method.rank=4 --seed 1",
        "medpeft finetune recipes/isic_ssf.yaml --set search.trials=0 --track tensorboard",
        "medpeft finetune recipes/isic_full.yaml --dry-run --memory",
    )
)
def finetune(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (docs/recipes.md).")],
    overrides: Set = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", help="The same as --set seed=N; another seed is another run.", min=0),
    ] = None,
    results: Results = Path("results"),
    demo: Demo = False,
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus",
            metavar="N",
            help="Train with N processes, a GPU each; on the CPU with --set device=cpu. No part of the result. "
            "Default: what srun or torchrun has started, or one.",
            min=1,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build and check everything, train nothing.")] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="With --dry-run: predict the peak memory of training, by two steps.")
    ] = False,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Score the test split once at the end.")
    ] = True,
    track: Annotated[
        str | None,
        typer.Option(
            "--track",
            metavar="NAME",
            help="Also send losses, metrics and recipe to tensorboard, wandb, mlflow or trackio, if installed.",
        ),
    ] = None,
) -> None:
    """Fine-tune as a recipe says, after the search that it asks for.

    The same command resumes a half-done run and skips a finished one. Prints the run directory.
    """
    if memory and not dry_run:
        raise RecipeError("finetune: --memory is for --dry-run", "every run's peak is in its record.json, memory")
    from medpeft_cli.runs.stop import stoppable

    with stoppable():
        from medpeft_cli.recipe.load import load_recipe

        overrides = (overrides or []) + ([] if seed is None else [f"seed={seed}"])
        overrides += [] if track is None else [f"track={track}"]
        loaded = load_recipe(recipe, overrides, demo=demo)
        for field, origin in loaded.origins.items():
            console.detail(f"{field} ← {origin}")
        if dry_run:
            from medpeft_cli.engine.tasks import dry_run as build_and_check

            found = build_and_check(loaded.recipe, evaluate=evaluate, memory=memory)
            console.result(found, _memory(found["memory"]) if memory else None)
            return
        from medpeft_cli.runs.record import Record
        from medpeft_cli.runs.start import start_run

        run_dir = start_run(loaded, results, _command_line(), evaluate=evaluate, processes=gpus)
        console.result({"run": str(run_dir), "status": Record.read(run_dir).data["status"]}, str(run_dir))


def _memory(memory: dict[str, Any]) -> str:
    """Return a predicted peak in words."""
    mib = {name: f"{size / 2**20:,.0f} MiB" for name, size in memory["parts"].items()}
    lines = [f"{memory['peak_bytes'] / 2**20:,.0f} MiB at the peak on {memory['device']} ({memory['measure']})"]
    lines += [f"{size:>12}  {name.replace('_', ' ')}" for name, size in mib.items()]
    if "free_bytes" in memory:
        lines.append(f"{memory['free_bytes'] / 2**20:,.0f} of {memory['total_bytes'] / 2**20:,.0f} MiB are free there")
    return "\n".join(lines)


@app.command(
    epilog=_examples(
        "medpeft generate results/mimic_bias/RUN",
        'medpeft generate results/mimic_bias/RUN --prompt "No acute cardiopulmonary process." --count 16 --seed 3',
        "medpeft generate results/mimic_bias/RUN --prompts prompts.csv --shard 2/4 --out pictures",
        "medpeft generate results/mimic_bias/RUN --base          # by the untuned pipeline, to compare",
    )
)
def generate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, as finetune printed it.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="Prompts: .txt, one a line, or a table with a column prompt or text. Default: those of the test split.",
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="One prompt instead.")] = None,
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", help="Images per prompt. Default: the recipe's.", min=1)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="S", help="Seed of all images; each has its own from it. Default: the run's.", min=0
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="K", help="Denoising steps. Default: the recipe's.", min=1, max=500),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance", metavar="SCALE", help="Classifier-free guidance; 1 = none. Default: the recipe's.", min=0.0
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler", metavar="NAME", help="Sampler, such as ddim, euler, dpmsolver. Default: the recipe's."
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size", metavar="PIXELS", help="Side of the images, a multiple of 8. Default: as trained.", min=16
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", metavar="N", help="Images at once; no part of the result.", min=1)
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            "--shard", metavar="I/N", help="The I-th of N parts, for several processes or hosts on one folder."
        ),
    ] = "1/1",
    base: Annotated[bool, typer.Option("--base", help="By the pipeline as it was before it was tuned.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Where the images go. Default: a folder in the run, named by what is asked."
        ),
    ] = None,
    weights: Weights = None,
) -> None:
    """Make images with a tuned text-to-image pipeline.

    Each image depends on the weights, the settings and its own seed, not on batch or shard. The same command goes on where
    it was stopped. images.jsonl says what each image is, generation.json how all were made. Prints the folder.
    """
    if prompts and prompt is not None:
        raise RecipeError(
            "generate: give --prompts or --prompt, not both", "--prompts reads a file, --prompt is one text"
        )
    if prompt is not None and not prompt.strip():
        raise RecipeError("generate: --prompt is empty", "--guidance 1 shows what is made without guidance by a prompt")
    part = _part(shard)
    changes = {"steps": steps, "guidance": guidance, "scheduler": scheduler, "size": size}
    changes = {field: value for field, value in changes.items() if value is not None}
    from medpeft_cli.engine.generate import PromptList, read_prompt_list
    from medpeft_cli.engine.generate import generate as make_images

    given = (
        read_prompt_list(prompts) if prompts else PromptList("--prompt", [(0, prompt)]) if prompt is not None else None
    )
    folder = make_images(
        run, prompts=given, count=count, seed=seed, base=base, batch_size=batch, shard=part, out=out, weights=weights, **changes,
    )  # fmt: skip
    console.result({"folder": str(folder)}, str(folder))


def _part(shard: str) -> tuple[int, int]:
    """Return (i, n) of `i/n`, 1 ≤ i ≤ n."""
    part, slash, parts = shard.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise RecipeError(f"--shard: got {shard!r}, wanted I/N with 1 ≤ I ≤ N", "--shard 1/4, --shard 2/4, …")
    return int(part), int(parts)


@app.command(
    epilog=_examples(
        "medpeft evaluate results/isic_ssf/*",
        "medpeft evaluate results/isic_ssf/RUN --json",
        "medpeft evaluate RUN --generated $(medpeft generate RUN --base)   # the untuned pipeline",
        "medpeft evaluate --real data/test --generated out/shard1 --generated out/shard2 --encoder xrv-densenet121 \\\n"
        "      --encoder-weights xrv.pt --clip hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
    )
)
def evaluate(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN", help="Run directories, as finetune printed them.")
    ] = None,
    bootstrap: Annotated[
        int | None, typer.Option("--bootstrap", metavar="N", help="Resamples behind each interval; 0 = none.", min=0)
    ] = None,
    confidence: Annotated[
        float | None, typer.Option("--confidence", metavar="FRACTION", help="Coverage of each interval, 0–1.")
    ] = None,
    weights: Weights = None,
    real: Annotated[
        Path | None, typer.Option("--real", metavar="DIR", help="Compare folders instead of runs: the real pictures.")
    ] = None,
    generated: Annotated[
        list[Path] | None,
        typer.Option(
            "--generated",
            metavar="DIR",
            help="The generated pictures. Repeatable: shards count as one set. With RUN: other pictures than its own.",
        ),
    ] = None,
    train: Annotated[
        Path | None,
        typer.Option("--train", metavar="DIR", help="The pictures that were trained on: how near are generated ones?"),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", metavar="NAME", help="Feature network (`medpeft list encoders`). Default: inception."
        ),
    ] = None,
    encoder_weights: Annotated[
        Path | None, typer.Option("--encoder-weights", metavar="FILE", help="Its weights, where they are in a file.")
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            "--clip", metavar="NAME", help="open_clip model for the CLIP score: NAME@TAG, hf-hub:…, local-dir:…."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="CSV with columns file, prompt. Default: images.jsonl of --generated."
        ),
    ] = None,
) -> None:
    """Score the test split of trained runs, or compare generated with real pictures.

    Of a run the model is asked once; later calls compute the metrics again from predictions.csv. Of pictures: FID, KID,
    precision, recall, density, coverage, MS-SSIM, with --clip the CLIP score, with --train the distance to training pictures.
    RUN --generated scores other pictures, such as the untuned pipeline's, as the run's own, and leaves its record as it is.
    """
    either = "RUN…, RUN --generated DIR, or --real DIR --generated DIR"
    if real:
        if not generated:
            raise RecipeError("evaluate: --generated is missing", either)
        if runs or weights:
            raise RecipeError("evaluate: RUN and --weights do not go with --real", either)
        _evaluate_folders(
            real, generated, train, prompts, encoder or "inception", encoder_weights, clip,
            1000 if bootstrap is None else bootstrap, 0.95 if confidence is None else confidence,
        )  # fmt: skip
        return
    if not runs:
        raise RecipeError(f"evaluate: {'--real is missing' if generated else 'nothing to score'}", either)
    if generated and (weights or len(runs) > 1):
        raise RecipeError("evaluate: --generated goes with one RUN, and without --weights", either)
    if given := [name for name, value in {"--train": train, "--prompts": prompts}.items() if value]:
        raise RecipeError(f"evaluate: {given[0]} goes with --real and --generated only")
    from medpeft_cli.engine.tasks import evaluate_run
    from medpeft_cli.report.run_table import print_run

    changes = {
        "bootstrap": bootstrap,
        "confidence": confidence,
        "encoder": encoder,
        "clip": clip,
    }
    changes = {field: value for field, value in changes.items() if value is not None}
    if encoder or encoder_weights:  # another encoder's weights are not in the recipe
        changes["encoder_weights"] = None if encoder_weights is None else str(encoder_weights)
    if generated:
        from medpeft_cli.engine.tasks import evaluate_folders

        _show_scores(evaluate_folders(runs[0], generated, **changes))
        return
    records, problems = [], []
    for run in runs:
        try:
            records.append(evaluate_run(run, weights, **changes))
        except MedpeftError as error:
            problems.append(error)
    for error in problems:
        console.error(error)
    if console.json:
        console.result([{"run": str(record.run_dir), "metrics": record.data["metrics"]} for record in records])
    else:
        for record in records:
            print_run(record.data)
    if problems:
        raise typer.Exit(problems[0].exit_code)


def _evaluate_folders(
    real: Path,
    generated: list[Path],
    train: Path | None,
    prompts: Path | None,
    encoder: str,
    encoder_weights: Path | None,
    clip: str | None,
    bootstrap: int,
    confidence: float,
) -> None:
    if not 0 < confidence < 1:
        raise RecipeError(f"--confidence: got {confidence:g}, wanted a fraction between 0 and 1")
    from medpeft_cli.engine.assembly import pick_device
    from medpeft_cli.engine.compare import compare
    from medpeft_cli.engine.failures import enough_memory
    from medpeft_cli.files import user_cache
    from medpeft_cli.metrics.alignment import load_clip
    from medpeft_cli.metrics.encoders import load_encoder
    from medpeft_cli.metrics.pictures import folder_pictures

    device = pick_device("auto")
    with enough_memory(f"the scoring networks on {device}", "free the device, or CUDA_VISIBLE_DEVICES= for the CPU"):
        scores = compare(
            folder_pictures([real]),
            folder_pictures(generated, prompts),
            encoder=load_encoder(encoder, device, encoder_weights),
            clip=load_clip(clip, device) if clip else None,
            train=folder_pictures([train]) if train else None,
            bootstrap=bootstrap,
            confidence=confidence,
            cache=user_cache("features"),
        )
    _show_scores(scores)


def _show_scores(scores: dict[str, Any]) -> None:
    if console.json:
        console.result(scores)
        return
    from medpeft_cli.report.run_table import print_scores

    print_scores(scores)


@app.command(
    epilog=_examples(
        "medpeft report results/",
        "medpeft report results/ --latex > tables.tex",
        "medpeft report results/ --html --figures",
        "medpeft report results/ --against-paper",
        "medpeft report results/ --baseline full",
        "medpeft report results/ --rows dataset --columns method --where backbone=resnet50.a1_in1k --metric auroc_ovr",
    )
)
def report(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Folder of runs; every record.json below it is read.")
    ],
    latex: Annotated[
        bool, typer.Option("--latex", help="LaTeX tables (booktabs), and a macro for every number.")
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values, a line per cell.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown tables.")] = False,
    html: Annotated[
        bool,
        typer.Option(
            "--html", help="One page for a browser, RESULTS/report/index.html: tables, figures and every run."
        ),
    ] = False,
    figures: Annotated[bool, typer.Option("--figures", help="Every figure as PDF and PNG in RESULTS/report/.")] = False,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric", metavar="NAME", help="Test metric of the tables. Default: f1_macro; fid for text-to-image."
        ),
    ] = None,
    rows: Annotated[
        str,
        typer.Option(
            "--rows",
            metavar="NAMES",
            help="One table instead of the paper's: dataset, backbone, fraction, method, seed or a field of the "
            "recipe (train.lr), separated by commas.",
        ),
    ] = "",
    columns: Annotated[str, typer.Option("--columns", metavar="NAMES", help="The same for its columns.")] = "",
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="NAME=VALUE", help="Only such runs; repeated for several names or values."),
    ] = None,
    against_paper: Annotated[
        bool,
        typer.Option(
            "--against-paper",
            help="Beside ours the number that the paper prints and the difference; ranks by the paper's rules for ties.",
        ),
    ] = False,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="METHOD",
            help="Test every method against this one: on each test split, from the saved predictions, and over datasets.",
        ),
    ] = None,
) -> None:
    """Tables of all runs under a folder, in the layout of the paper's Tables 2 to 6 or as asked.

    Mean ± sd over seeds, best and second best, ranks, trained parameters, and what is missing. Reads records; page and
    figures also what lies beside them. A form is printed, and written to RESULTS/report/; several forms are only written.
    """
    from medpeft_cli.files import write_text
    from medpeft_cli.report import Question, build_report, files, print_report, render

    chosen = {"latex": latex, "csv": csv, "markdown": markdown, "json": console.json}
    forms = [name for name, wanted in chosen.items() if wanted]
    axes = [tuple(filter(None, (name.strip() for name in names.split(",")))) for names in (rows, columns)]
    built = build_report(results, Question(metric, *axes, _where(where or []), against_paper, baseline))
    if not (forms or html or figures):
        print_report(built)
    elif len(forms) == 1:
        print(render(built, forms[0]), end="")
    for name, text in files(built, forms).items():
        path = results / "report" / name
        try:
            write_text(path, text)
        except RunError as error:
            if len(forms) > 1:
                raise
            console.warn(error.message)  # what was asked for is printed: a folder of others may be read-only
        else:
            print(path) if len(forms) > 1 else console.say(f"also in {path}")
    for path in _drawn(built, results / "report", html, figures):
        print(path) if not forms else console.say(f"also in {path}")


def _drawn(built: "Report", folder: Path, html: bool, figures: bool) -> list[Path]:
    """Write the parts of a report that need matplotlib, and return their files."""
    from medpeft_cli.files import write_text

    written = []
    if figures:
        from medpeft_cli.report.figures import write_figures

        written += write_figures(built, folder)
    if html:
        from medpeft_cli.report.html import html as page

        write_text(folder / "index.html", page(built))
        written.append(folder / "index.html")
    return written


def _where(pairs: list[str]) -> dict[str, list[str]]:
    """Return `name=value` pairs by name."""
    wanted: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise RecipeError(f"--where: got {pair!r}, wanted NAME=VALUE", "--where dataset=isic --where method=ssf")
        wanted.setdefault(name.strip(), []).append(value.strip())
    return wanted


@app.command(
    epilog=_examples(
        "medpeft export results/isic_lora/RUN --merged isic_lora.safetensors",
        "medpeft export results/mimic_bias/RUN --merged pipelines/mimic_bias",
    )
)
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, as finetune printed it.")],
    merged: Annotated[
        Path,
        typer.Option(
            "--merged", metavar="PATH", help="The .safetensors file, or for text-to-image the new folder, to write."
        ),
    ],
    weights: Weights = None,
) -> None:
    """Fold the adapter into the pre-trained weights: plain timm weights, or a plain diffusers pipeline.

    Refused, with the reason, where the method is no change of the weights.
    """
    from medpeft_cli.engine.export import export_merged

    export_merged(run, merged, weights)
    console.result({"merged": str(merged)}, str(merged))


@app.command(epilog=_examples("medpeft validate recipes/*.yaml", "medpeft validate my.yaml --set train.lr=1e-3"))
def validate(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE", help="Recipe files.")],
    overrides: Set = None,
    demo: Demo = False,
) -> None:
    """Check recipes without running them.

    Names every problem with file, line and column, and the run each recipe would make.
    """
    from medpeft_cli.recipe.identity import run_id
    from medpeft_cli.recipe.load import load_recipe

    rows, problems = [], []
    for path in recipes:
        try:
            rows.append({"recipe": str(path), "run": run_id(load_recipe(path, overrides or [], demo=demo).recipe)})
        except RecipeError as error:
            problems.append(error)
    for error in problems:
        console.error(error)
    if rows or console.json:
        console.table(rows, ["recipe", "run"])
    if problems:
        raise typer.Exit(RecipeError.exit_code)


@list_app.command("methods", epilog=_examples("medpeft list methods", "medpeft list methods --json"))
def list_methods() -> None:
    """PEFT methods and baselines.

    Where each fits, whether it merges, its hyper-parameters with their defaults.
    """
    from medpeft_cli.catalogue import method_rows

    console.table(method_rows(), ["name", "families", "paper", "merges", "hyper-parameters", "reference"])


@list_app.command("datasets", epilog=_examples("medpeft list datasets", "medpeft list datasets --json"))
def list_datasets() -> None:
    """Dataset cards: classes, access, licence."""
    from medpeft_cli.catalogue import dataset_rows

    console.table(dataset_rows(), ["name", "title", "modality", "classes", "access", "licence"])


@list_app.command("backbones", epilog=_examples("medpeft list backbones", "medpeft list backbones dinov2"))
def list_backbones(
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="Part of a name.")] = None,
) -> None:
    """Backbones of the paper and of the tests.

    With TEXT: every pre-trained timm name that contains it. A recipe may name any timm CNN or ViT.
    """
    from medpeft_cli.catalogue import backbone_rows

    console.table(backbone_rows(text), ["name", "family", "note"])


@list_app.command("encoders", epilog=_examples("medpeft list encoders", "medpeft list encoders --json"))
def list_encoders() -> None:
    """Feature networks for FID and its kin: what each is, where its weights come from."""
    from medpeft_cli.catalogue import encoder_rows

    console.table(encoder_rows(), ["name", "network", "weights"])


@list_app.command("recipes", epilog=_examples("medpeft list recipes", "medpeft list recipes recipes/extra"))
def list_recipes(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of recipes.")] = Path("recipes"),
) -> None:
    """Recipes of a folder: dataset, backbone, method."""
    from medpeft_cli.catalogue import recipe_rows

    console.table(recipe_rows(folder), ["recipe", "dataset", "backbone", "method"])


def _command_line() -> str:
    import shlex

    return shlex.join(["medpeft", *sys.argv[1:]])


def main() -> None:
    """Run the command line; every error leaves by one door, with its exit code."""
    # the global options may stand behind the command, where people write them
    arguments = sys.argv[1:]
    moved = [word for word in arguments if word in GLOBAL_OPTIONS]
    rest = [word for word in arguments if word not in GLOBAL_OPTIONS]
    if rest in ([], ["list"]):
        rest.append("--help")
    try:
        status = app(moved + rest, standalone_mode=False) or 0
        sys.stdout.flush()
        sys.exit(status)
    except (BrokenPipeError, SystemExit) as end:
        # the reader of a pipe has left; click and rich make an exit code of 1 of it
        left = end if isinstance(end, BrokenPipeError) else end.__context__
        if not isinstance(left, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing more to say when the interpreter ends
        sys.exit(0)
    except MedpeftError as error:
        console.error(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the command line itself
            command = getattr(getattr(error, "ctx", None), "command_path", "medpeft")
            print(f"error: {error.format_message()}\n  hint: {command} --help", file=sys.stderr)
            sys.exit(2)
        import traceback

        traceback.print_exc()
        print(
            f"error: {type(error).__name__}: a fault of medpeft; please report it with the lines above", file=sys.stderr
        )
        sys.exit(1)
