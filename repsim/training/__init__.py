"""Networks trained from recipes, stored, and loaded again: the committed zoo, and files of others."""
