"""The public question sets: their formats, passages and preparation."""
