"""How objects and bytes cross from task to task."""
