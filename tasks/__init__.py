"""SeqIO tasks. Importing a module of this package registers its tasks."""
