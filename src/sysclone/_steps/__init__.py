"""What a task does between its birth and its function or program, a subject a file."""
