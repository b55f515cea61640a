"""The command `btr`; each module is one sub-command with `main(argv)`."""
