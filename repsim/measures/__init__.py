"""Pure functions of representations: no models, no files."""
