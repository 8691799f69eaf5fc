"""The models that ship with the project: card, weights, recipe, evaluation."""
