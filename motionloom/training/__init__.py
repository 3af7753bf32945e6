"""Training: the recipe, the loop, the run folder, weight averaging, and the stages a recipe can name."""
