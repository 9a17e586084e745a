"""Scores of saved predictions, and how sure they are. No torch: every metric is recomputed from `predictions.csv`."""
