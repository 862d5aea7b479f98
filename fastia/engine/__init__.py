"""Training, evaluation of predictions in folders, their reports, and the demonstration."""
