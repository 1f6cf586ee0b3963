"""Training on data sets and on generated images: recipes, the loop, run folders, evaluation."""
