"""Scores of predictions in folders: evaluated, shown, and compared."""
