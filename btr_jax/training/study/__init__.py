"""What parts of training are worth: variants of a stage from one reader.

variants   what is trained, and what of it depends on what
answers    questions answered, and what bits lose
runs       one variant trained and asked
results    the rows of the table
"""
