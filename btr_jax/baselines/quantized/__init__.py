"""Atlas-Q: readers whose matrices are stored in four or eight bits."""
