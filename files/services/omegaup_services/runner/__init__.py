"""The runner: asks the grader for runs and judges them; what it executes, it executes in a sandbox of its own."""
