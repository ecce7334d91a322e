"""The description of a task to be made, and the plain values that its fields may hold."""
