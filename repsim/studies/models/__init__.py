"""Accuracy under attack, and how adversarial images transfer (notebook 00)."""
