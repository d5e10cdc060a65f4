"""Training on Ray: the driver that starts workers, the function that each of them runs, and the line between."""
