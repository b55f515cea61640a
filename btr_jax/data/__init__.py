"""Texts into token arrays: records, vocabulary, encoding, SeqIO pipeline."""
