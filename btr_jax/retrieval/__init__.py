"""Finding passages for questions, and judging what was found."""
