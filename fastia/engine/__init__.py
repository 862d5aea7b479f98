"""Evaluation of predictions in folders, its reports, balanced sets, and the demonstration."""
