"""Handles on tasks, and waiting for them."""
