"""BTR for encoder-only readers: BERT's shape, answers that are spans."""
