"""DensePhrases: answers are found as phrases of the corpus, nothing is read."""
