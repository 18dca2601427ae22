"""Claims with effect, interval and verdict; tests over networks."""
