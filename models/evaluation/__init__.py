"""How well a model does against a truth: numbers from arrays and marks, without files. numpy and scipy only."""
