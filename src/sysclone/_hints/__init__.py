"""What a refusal is likely to mean on this machine, and what to try."""
