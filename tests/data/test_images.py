import itertools
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from medpeft_cli import compat  # noqa: F401  (before timm)
from medpeft_cli.data.images import Batches, ImageStore, InputSpec, epoch_order, eval_image, train_image
from medpeft_cli.data.layouts import Sample
from medpeft_cli.data.prepare import write_dataset
from medpeft_cli.recipe.schema import Augment

SPEC = InputSpec(16, (0.5,) * 3, (0.5,) * 3, "bicubic", 0.875)
STILL = Augment(crop_scale=None, horizontal_flip=0)
ALL = Augment(crop_scale=(0.2, 1.0), vertical_flip=0.5, brightness=0.3, contrast=0.3)


def rng(seed=0):
    return np.random.Generator(np.random.Philox(seed))


def smooth(height, width, channels=3):
    """A picture with few high frequencies."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [128 + 100 * np.sin(x / 23 + phase) * np.cos(y / 31 - phase) for phase in range(channels)]
    return np.stack(planes, axis=2).astype(np.uint8)


@pytest.fixture
def manifest(tmp_path, make_card):
    def read(sample):
        number = int(sample.id)
        shape = (20 + number % 7, 30 - number % 5) + ((3,) if number % 3 else ())
        return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)

    samples = [Sample(f"{i:02}", f"{i:02}", "ab"[i % 4 == 0], f"{i}") for i in range(40)]
    return write_dataset(tmp_path / "root", make_card({"kind": "class_folders"}), samples, read)


def passed(manifest, augment, batches, **options):
    plan = {"seed": 1, "epoch": 2, "workers": 2} | options
    return list(Batches(ImageStore(manifest), manifest.labels, SPEC, augment, batches, **plan))


# ---- one picture ----


@pytest.mark.parametrize("shape", [(180, 180), (300, 500), (256, 341), (500, 231)])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
def test_evaluation_is_timms(shape, crop_pct):
    from PIL import Image
    from timm.data import create_transform

    spec = InputSpec(224, (0, 0, 0), (1, 1, 1), "bicubic", crop_pct)
    pixels = smooth(*shape)
    theirs = create_transform(
        224, is_training=False, interpolation="bicubic", crop_pct=crop_pct, mean=spec.mean, std=spec.std
    )
    wanted = (theirs(Image.fromarray(pixels)) * 255).round().numpy()
    assert np.abs(eval_image(pixels, spec) - wanted).max() <= 2  # one step instead of two: rounding, at most 2 levels


def test_a_picture_at_scale_is_only_cropped():
    pixels = np.random.default_rng(0).integers(0, 256, (18, 30, 3), dtype=np.uint8)  # floor(16 / 0.875) = 18
    assert np.array_equal(eval_image(pixels, SPEC), pixels[1:17, 7:23].transpose(2, 0, 1))


def test_grey_is_repeated():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    for image in (eval_image(pixels, SPEC), train_image(pixels, SPEC, ALL, rng())):
        assert image.shape == (3, 16, 16) and image.dtype == np.uint8
        assert np.array_equal(image[0], image[2])
    assert np.array_equal(eval_image(pixels, SPEC), eval_image(np.repeat(pixels[:, :, None], 3, 2), SPEC))


def test_no_augmentation_is_evaluation():
    pixels = smooth(40, 50)
    assert np.array_equal(train_image(pixels, SPEC, STILL, rng()), eval_image(pixels, SPEC))


def test_flips():
    pixels = smooth(40, 50)
    still = eval_image(pixels, SPEC)
    across = train_image(pixels, SPEC, STILL.model_copy(update={"horizontal_flip": 1.0}), rng())
    down = train_image(pixels, SPEC, STILL.model_copy(update={"vertical_flip": 1.0}), rng())
    assert np.array_equal(across, still[:, :, ::-1])
    assert np.array_equal(down, still[:, ::-1])


def test_brightness_multiplies_and_contrast_keeps_the_mean():
    pixels = np.random.default_rng(0).integers(80, 120, (40, 50, 3), dtype=np.uint8)
    still = eval_image(pixels, SPEC).astype(float)
    bright = train_image(pixels, SPEC, STILL.model_copy(update={"brightness": 0.5}), rng()).astype(float)
    assert np.abs(bright - still * (bright.mean() / still.mean())).max() < 1
    assert abs(bright.mean() / still.mean() - 1) > 0.01
    contrast = train_image(pixels, SPEC, STILL.model_copy(update={"contrast": 0.5}), rng()).astype(float)
    assert abs(contrast.mean() - still.mean()) < 0.5
    assert abs(contrast.std() / still.std() - 1) > 0.01


def test_brightness_never_wraps_around():
    white = np.full((40, 40, 3), 250, np.uint8)
    images = [train_image(white, SPEC, STILL.model_copy(update={"brightness": 0.9}), rng(seed)) for seed in range(20)]
    assert max(image.max() for image in images) == 255
    assert all(np.ptp(image) == 0 for image in images)


def test_random_crops_lie_inside_and_have_the_stated_area_and_ratio():
    """The picture holds its own coordinates, so that the crop can be read off the result."""
    height, width = 200, 240
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)
    augment = Augment(crop_scale=(0.3, 0.6), horizontal_flip=0)
    for seed in range(50):
        image = train_image(pixels, InputSpec(64, SPEC.mean, SPEC.std, "bilinear", 1.0), augment, rng(seed)).astype(
            float
        )
        across = (image[0, 32, -1] - image[0, 32, 0]) * 64 / 63
        down = (image[1, -1, 32] - image[1, 0, 32]) * 64 / 63
        assert 0.27 < across * down / (height * width) < 0.63
        assert 0.7 < across / down < 1.4


@pytest.mark.parametrize("shape", [(16, 400), (400, 16), (1, 1), (3, 2)])
def test_extreme_shapes_still_give_a_picture(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    tight = Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    for image in (
        eval_image(pixels, SPEC),
        train_image(pixels, SPEC, tight, rng()),
        train_image(pixels, SPEC, ALL, rng()),
    ):
        assert image.shape == (3, 16, 16)


# ---- batches ----


def test_batches_are_the_pictures_in_order(manifest):
    batches = [np.array([3, 1]), np.array([39, 0, 7])]
    found = passed(manifest, None, batches)
    store = ImageStore(manifest)
    for (images, labels), indices in zip(found, batches, strict=True):
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64
        assert labels.tolist() == manifest.labels[indices].tolist()
        for image, index in zip(images, indices, strict=True):
            assert np.array_equal(image, eval_image(store[index], SPEC))
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_pictures_do_not_depend_on_threads_batches_or_start(manifest):
    order = epoch_order(np.arange(40), manifest.labels, 1, 2, "shuffle")
    whole = torch.cat([images for images, _ in passed(manifest, ALL, [order], workers=1)])
    for workers, parts in itertools.product((1, 3), (4, 9)):
        found = torch.cat(
            [images for images, _ in passed(manifest, ALL, np.array_split(order, parts), workers=workers)]
        )
        assert torch.equal(found, whole)
    late = passed(manifest, ALL, np.array_split(order, 4), start=3)
    assert len(late) == 1 and torch.equal(late[0][0], whole[30:])


def test_epoch_seed_and_picture_change_the_draw(manifest):
    same = [np.array([5, 6])]
    first = passed(manifest, ALL, same)[0][0]
    assert torch.equal(passed(manifest, ALL, same)[0][0], first)
    assert not torch.equal(passed(manifest, ALL, same, epoch=3)[0][0], first)
    assert not torch.equal(passed(manifest, ALL, same, seed=2)[0][0], first)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_read_does_not_stay_in_memory(manifest):
    def resident():
        """Kilobytes of the dataset's files that this process holds."""
        parts = Path("/proc/self/smaps").read_text().split("VmFlags")
        return [int(re.search(r"Rss: +(\d+)", part)[1]) for part in parts if str(manifest.root) in part]

    store = ImageStore(manifest)
    assert store.stored(0).max() and sum(resident()) > 0
    for _ in Batches(store, manifest.labels, SPEC, None, [np.arange(40)], 0, 0, 2):
        assert sum(resident()) == 0
    assert np.array_equal(store.stored(7), ImageStore(manifest).stored(7))


def test_leaving_early_ends_the_threads(manifest):
    before = threading.active_count()
    stream = iter(Batches(ImageStore(manifest), manifest.labels, SPEC, ALL, [np.arange(8)] * 50, 0, 0, 3))
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


def test_a_failure_in_a_thread_reaches_the_consumer(manifest):
    with pytest.raises(IndexError):
        passed(manifest, None, [np.array([0]), np.array([400])])


def test_no_batches_is_no_picture(manifest):
    assert passed(manifest, None, []) == []


# ---- order ----


def test_shuffle_visits_each_once_as_a_function_of_seed_and_epoch():
    indices, labels = np.arange(5, 105), np.zeros(200, np.int64)
    first = epoch_order(indices, labels, 0, 0, "shuffle")
    assert sorted(first) == indices.tolist() and first.tolist() != indices.tolist()
    assert np.array_equal(first, epoch_order(indices, labels, 0, 0, "shuffle"))
    assert not np.array_equal(first, epoch_order(indices, labels, 0, 1, "shuffle"))
    assert not np.array_equal(first, epoch_order(indices, labels, 1, 0, "shuffle"))


def test_balanced_visits_classes_equally_and_repeats_evenly():
    labels = np.array([0] * 70 + [1] * 20 + [2] * 10)
    order = epoch_order(np.arange(100), labels, 0, 0, "balanced")
    assert sorted(np.bincount(labels[order])) == [33, 33, 34]
    assert set(np.bincount(order, minlength=100)[90:]) <= {3, 4}  # ten pictures share 33 visits
    assert set(np.bincount(order, minlength=100)[:70]) <= {0, 1}


def test_a_picture_visited_twice_in_an_epoch_is_changed_anew_each_time(manifest):
    twice = [np.array([3, 5]), np.array([5, 3, 5])]
    (first, _), (second, _) = passed(manifest, ALL, twice)
    views = [first[1], second[0], second[2]]  # of picture 5
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(views, 2))
    whole = torch.cat([first, second])
    ((one, _),) = passed(manifest, ALL, [np.concatenate(twice)])
    assert torch.equal(one, whole), "the cut into batches does not matter"
    assert torch.equal(passed(manifest, ALL, twice, start=1)[0][0], second), "nor where the pass is taken up again"
