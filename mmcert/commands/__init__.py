"""The command lines: each module is one, and nothing heavy is imported before it is needed."""
