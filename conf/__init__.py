"""The Hydra tree that ships with tascnet (`pkg://tascnet_conf`)."""
