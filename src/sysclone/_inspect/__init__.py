"""Who shares what in a living system."""
