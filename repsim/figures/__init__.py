"""Tidy tables as pictures."""
