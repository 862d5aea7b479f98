"""Evaluation of predictions in folders, its reports, and the demonstration."""
