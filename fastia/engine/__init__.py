"""Training, evaluation of predictions in folders, their reports, balanced sets, and the demonstration."""
