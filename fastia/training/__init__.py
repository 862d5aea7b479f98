"""Two-phase training of a network from a recipe, with several processes, checkpoints and validation."""
