"""What each metric is called, which way is better, and exactly what it averages. No imports: `report` starts with it."""

from typing import NamedTuple


class MetricInfo(NamedTuple):
    """One metric as tables and captions print it.

    Attributes:
        title: short name, averaging included.
        definition: what is computed, with its range; goes into captions.
        higher_is_better: direction of the best value.
        digits: digits after the point in tables; values equal to these digits count as tied.
    """

    title: str
    definition: str
    higher_is_better: bool = True
    digits: int = 3


CLASSIFICATION = {
    "f1_macro": MetricInfo("macro F1", "F1 score, unweighted mean over classes, 0 to 1"),
    "f1_weighted": MetricInfo("weighted F1", "F1 score, mean over classes weighted by their test images, 0 to 1"),
    "f1_micro": MetricInfo("micro F1", "F1 score of the pooled decisions, equal to accuracy here, 0 to 1"),
    "accuracy": MetricInfo("accuracy", "share of images whose most probable class is right, 0 to 1"),
    "balanced_accuracy": MetricInfo("balanced accuracy", "recall, unweighted mean over classes, 0 to 1"),
    "auroc_ovr": MetricInfo("AUROC", "area under the ROC curve, one class against the rest, mean over classes, 0 to 1"),
    "average_precision_macro": MetricInfo(
        "average precision", "average precision, unweighted mean over classes, 0 to 1"
    ),
    "ece": MetricInfo("ECE", "expected calibration error of the top label, 15 equal-width bins, 0 to 1", False),
    "brier": MetricInfo("Brier score", "squared error of the probabilities, summed over classes, 0 to 2", False),
    "nll": MetricInfo("NLL", "negative log-likelihood of the true class, nats per image", False),
}

GENERATION = {
    "fid": MetricInfo("FID", "Fréchet distance of the features of real and generated images, 0 or more", False, 2),
    "kid": MetricInfo("KID", "squared maximum mean discrepancy of the features, cubic kernel, unbiased", False, 5),
    "improved_precision": MetricInfo("precision", "share of generated images inside the real manifold, 0 to 1"),
    "improved_recall": MetricInfo("recall", "share of real images inside the generated manifold, 0 to 1"),
    "density": MetricInfo("density", "real neighbourhoods around a generated image, about 1 for equal sets"),
    "coverage": MetricInfo("coverage", "share of real images with a generated one in their neighbourhood, 0 to 1"),
    "clip_score": MetricInfo("CLIP score", "100 × cosine of image and prompt, mean over generated images", digits=2),
    "ms_ssim": MetricInfo(
        "MS-SSIM", "similarity of random pairs of generated images, 0 to 1; the lower, the more diverse", False
    ),
    "nearest_train": MetricInfo(
        "distance to training", "distance to the nearest training image over that of real images; near 0 for copies"
    ),
}

METRIC_INFO = CLASSIFICATION | GENERATION
