"""The built-in corpus: the CIA World Factbook as passages and questions."""
