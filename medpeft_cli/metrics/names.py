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


METRIC_INFO = {
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
