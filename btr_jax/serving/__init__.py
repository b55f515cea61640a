"""Answering questions: retrieve, look up, encode, decode."""
