"""Chest CT starter: lungs and nodule candidates, trained on generated thoraxes by the recipe in this folder."""
