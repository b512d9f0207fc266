"""The write path between callers and a driver: who commits with whom."""
