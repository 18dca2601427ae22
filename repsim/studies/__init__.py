"""One analysis each, as its notebook asks for it: networks and data in, a tidy table out."""
