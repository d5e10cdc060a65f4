"""The training engine: exact, data parallel, and ignorant of Ray."""
