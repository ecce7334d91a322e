"""Who made whom in a run."""
