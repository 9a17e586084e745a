"""Speed and memory of `prepare` and of reading what it made, each beside a bare loop that does the least; run by hand.

    python -m benchmarks.prepare [packing memory reading manifest duplicates] [--images 1500] [--workers 2] [--repeats 5]

Ours and the bare loop take turns, so that whatever else the machine does slows both; medians and their ratios are printed.
It makes its own files in a temporary folder.
"""

import argparse
import json
import multiprocessing as mp
import os
import resource
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import make_jpegs, seconds, take_turns
from medpeft_cli.console import console
from medpeft_cli.data.card import Card
from medpeft_cli.data.duplicates import near_pairs, perceptual_hashes
from medpeft_cli.data.images import Batches, ImageStore, InputSpec
from medpeft_cli.data.layouts import Sample, list_source
from medpeft_cli.data.manifest import FORMAT, dataset_sha256, read_manifest, write_rows
from medpeft_cli.data.pack import Pieces
from medpeft_cli.data.prepare import prepare, write_dataset
from medpeft_cli.data.workers import pack
from medpeft_cli.malloc import keep_freed_memory
from medpeft_cli.runs.environment import cores

SIZE = 256
SPEC = InputSpec(224, (0.5,) * 3, (0.5,) * 3, "bicubic", 0.875)
CARD = Card(name="bench", title="Bench", modality="test", classes=("a", "b"), layout={"kind": "class_folders"})


def medians(repeats: int, **works: Callable[[], object]) -> dict[str, float]:
    """Return name → median seconds of works that take turns."""
    return {name: statistics.median(values) for name, values in take_turns(repeats, **works).items()}


def verdict(what: str, ratio: float, target: float) -> None:
    """Print a ratio beside its target."""
    print(f"  {what}: {ratio:.2f} (target {target:g}) {'ok' if ratio >= target else 'MISSED'}")


def bare_loop(paths: list[Path]) -> None:
    """Decode and resize, and throw away."""
    for path in paths:
        with Image.open(path) as image:
            image.load()
            image.resize((341, SIZE), Image.Resampling.BICUBIC)


def bare_loop_with_kept_memory(paths: list[Path]) -> None:
    """The same, with our setting of the allocator."""
    keep_freed_memory()
    bare_loop(paths)


def in_processes(work: Callable[[list[Path]], None], paths: list[Path], workers: int) -> None:
    """Share the paths among processes."""
    processes = [mp.get_context("fork").Process(target=work, args=(paths[k::workers],)) for k in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def in_child(work: Callable[[], object]) -> None:
    """Run in a process of its own, so that the bare loop does not inherit how another work has set up the memory."""
    process = mp.get_context("fork").Process(target=work)
    process.start()
    process.join()


def packing(folder: Path, options: argparse.Namespace) -> None:
    """Packing beside a bare decode and resize loop over the same files in as many processes."""
    print(f"packing: {options.images:,} JPEGs of 600 × 450, {options.workers} processes")
    in_child(lambda: make_jpegs(folder / "jpegs", options.images))
    paths = sorted((folder / "jpegs").glob("*/*.jpg"))
    listing = list_source(CARD, folder / "jpegs")

    def ours() -> None:
        shutil.rmtree(folder / "pieces", ignore_errors=True)
        (folder / "pieces").mkdir()
        pieces = Pieces(folder / "pieces", listing.samples, listing.read, SIZE, lambda sample: "")
        pack(pieces, "bench", options.workers)

    def whole() -> None:
        shutil.rmtree(folder / "root", ignore_errors=True)
        prepare(CARD, folder / "jpegs", folder / "root", size=SIZE, workers=options.workers)

    taken = medians(
        options.repeats,
        bare=lambda: in_processes(bare_loop, paths, options.workers),
        kept=lambda: in_processes(bare_loop_with_kept_memory, paths, options.workers),
        ours=lambda: in_child(ours),
        whole=lambda: in_child(whole),
    )
    for name, value in taken.items():
        print(f"  {name:6} {options.images / value:8,.0f} images/s")
    verdict("packing / bare loop", taken["bare"] / taken["ours"], 0.9)
    print(f"  packing / bare loop that keeps freed memory, as packing does: {taken['kept'] / taken['ours']:.2f}")
    print(
        f"  whole prepare (list, pack, near-duplicates, split, page) / bare loop: {taken['bare'] / taken['whole']:.2f}"
    )


def memory(folder: Path, options: argparse.Namespace) -> None:
    """Peak memory of one process while the number of pictures grows: pictures are streamed, rows are held."""
    print("memory: write_dataset of drawn 64 × 64 pictures, one process, peak resident")
    from medpeft_cli.demo import twins  # noqa: F401  (imports done before measuring)

    def run(count: int, sender: mp.connection.Connection) -> None:
        def read(sample: Sample) -> np.ndarray:
            return np.random.default_rng(int(sample.id)).integers(0, 256, (64, 64, 3), dtype=np.uint8)

        samples = [Sample(f"{n:07}", f"{n:07}", "ab"[n % 2], f"{n:07}") for n in range(count)]
        before = _resident()
        write_dataset(folder / f"memory{count}", CARD, samples, read)
        sender.send((before, _peak()))

    for count in options.counts:
        receiver, sender = mp.Pipe()
        process = mp.get_context("fork").Process(target=run, args=(count, sender))
        taken = seconds(lambda: (process.start(), process.join()))  # noqa: B023
        before, peak = receiver.recv()
        pixels = count * 64 * 64 * 3
        print(
            f"  {count:9,} pictures ({pixels / 1e6:8,.0f} MB of pixels): peak {peak / 1e6:6,.0f} MB, of which samples and"
            f" imports {before / 1e6:6,.0f} MB; {(peak - before) / count:6,.0f} bytes a picture; {taken:,.0f} s"
        )
        shutil.rmtree(folder / f"memory{count}")


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reading(folder: Path, options: argparse.Namespace) -> None:
    """Batches from the store beside decoding the JPEGs each epoch, with the same threads."""
    count = min(options.images, 1000)
    print(f"reading: batches of 64 at 224 pixels, {count:,} pictures, {options.workers} threads")
    paths = make_jpegs(folder / "jpegs", count)
    manifest = prepare(CARD, folder / "jpegs", folder / "root", size=SIZE)
    store, batches = ImageStore(manifest), np.array_split(np.arange(len(manifest.ids)), len(manifest.ids) // 64)

    def from_store() -> None:
        for _ in Batches(store, manifest.labels, SPEC, None, batches, 0, 0, options.workers):
            pass

    def decode(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            small = image.resize((341, SIZE), Image.Resampling.BICUBIC)
        return np.asarray(small.crop((58, 16, 282, 240))).transpose(2, 0, 1)

    def from_jpegs() -> None:
        with ThreadPoolExecutor(options.workers) as pool:
            for batch in batches:
                np.stack(list(pool.map(decode, [paths[i] for i in batch])))

    def gather() -> None:
        for batch in batches:
            np.stack([store.stored(i) for i in batch.tolist()])

    taken = medians(options.repeats, jpegs=from_jpegs, store=from_store, gather=gather)
    for name, value in taken.items():
        print(f"  {name:6} {count / value:9,.0f} images/s")
    verdict("store / jpegs, ready for the network", taken["jpegs"] / taken["store"], 20)
    verdict("plain gather, one thread / jpegs", taken["jpegs"] / taken["gather"], 20)


def manifest_rows(folder: Path, options: argparse.Namespace) -> None:
    """Loading a manifest of 400,000 rows, all of it checked against its hash."""
    print("manifest: 400,000 rows")
    numbers = range(400_000)
    columns = {
        "id": [f"p{n // 1000}/s{n // 3:08}/{n:08}" for n in numbers],
        "file": [f"files/p{n // 1000}/s{n // 3:08}/{n:08}.jpg" for n in numbers],
        "label": ["ab"[n % 2] for n in numbers],
        "split": [("train", "val", "test")[max(n % 10 - 7, 0)] for n in numbers],
        "group": [f"p{n // 5}" for n in numbers],
        "rank": [str(n + 1) if n % 10 < 8 else "" for n in numbers],
        **{name: ["256"] * len(numbers) for name in ("height", "width")},
        "channels": ["1"] * len(numbers),
        "offset": [str(65536 * n) for n in numbers],
        "pixels": [f"{n * 0x9E3779B97F4A7C15F39CC0605CEDC834 % 2**128:032x}" for n in numbers],
    }
    info = {
        "format": FORMAT, "card": CARD.name, "card_sha256": CARD.sha256, "images": len(numbers), "pieces": [],
        "sha256": dataset_sha256(CARD.classes, columns),
    }  # fmt: skip
    write_rows(folder / "manifest.csv", columns)
    (folder / "dataset.json").write_text(json.dumps(info))
    del columns
    taken = medians(options.repeats, load=lambda: read_manifest(folder, CARD))["load"]
    print(f"  loaded in {taken:.2f} s")
    verdict("2 s / loading", 2 / taken, 1)


def duplicates(folder: Path, options: argparse.Namespace) -> None:
    """Near-duplicates among 100,000 pictures, a hundred of them copies."""
    print("near-duplicates: 100,000 pictures")
    rng = np.random.default_rng(0)
    count = 100_000
    thumbs = np.empty((count, 32, 32), np.uint8)
    for k in range(count):
        layers = [Image.fromarray(rng.integers(0, 256, (n, n), dtype=np.uint8)).resize((32, 32)) for n in (4, 9, 17)]
        thumbs[k] = np.mean([np.asarray(layer) for layer in layers], axis=0)
    copies = rng.choice(count, 200, replace=False)
    thumbs[copies[100:]] = np.clip(thumbs[copies[:100]].astype(int) + rng.integers(-3, 4, (100, 32, 32)), 0, 255)
    hashes = perceptual_hashes(thumbs)
    start = time.perf_counter()
    pairs, _ = near_pairs(hashes, lambda chosen: thumbs[chosen])
    print(f"  {len(pairs)} pairs found of 100, in {time.perf_counter() - start:.1f} s; peak {_peak() / 1e6:,.0f} MB")


PARTS = {
    "packing": packing, "memory": memory, "reading": reading, "manifest": manifest_rows, "duplicates": duplicates,
}  # fmt: skip


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[], help=", ".join(PARTS))
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--counts", type=int, nargs="*", default=[5_000, 20_000, 80_000])
    options = parser.parse_args()
    console.quiet = True
    print(f"{cores()} processors, load {os.getloadavg()[0]:.1f}, {threading.active_count()} thread")
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="medpeft-bench-") as folder:
            PARTS[name](Path(folder), options)


if __name__ == "__main__":
    main()
