"""Tidy tables as pictures: `plots` has them all, from one file for each kind."""
