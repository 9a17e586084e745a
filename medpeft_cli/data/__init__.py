"""Data: cards, layouts, splits, the prepared dataset and what training reads from it."""
