"""The parts of stage `tune`: what its steps share, trials, fine-tuning, and what is reported."""
