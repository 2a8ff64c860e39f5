"""The command line: composing the config, checking it, and answering mistakes."""
