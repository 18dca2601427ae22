"""Many things made at once: in processes on this machine."""
