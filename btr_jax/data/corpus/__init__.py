"""Corpora of one's own: files of many kinds in, passages with titles out."""
