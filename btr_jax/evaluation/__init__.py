"""What a reader is worth: answers, questions per second, bytes per token."""
