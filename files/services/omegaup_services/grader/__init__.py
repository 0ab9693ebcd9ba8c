"""The grader: takes submissions, queues runs, hands them to runners, records and broadcasts verdicts."""
