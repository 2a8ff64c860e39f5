"""The parts of stage `prune`: the model that it starts from, iterations, and their journal."""
