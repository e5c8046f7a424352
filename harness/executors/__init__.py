"""Ways to run the tasks of a suite: the same tasks, the same bytes."""
