"""One short module a stage, readable top to bottom: what the stage does, in order."""
