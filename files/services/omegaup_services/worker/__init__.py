"""Queue workers: one process consumes one queue."""
