"""From a network to files that run without tascnet, and back to something that can be called.

Nothing is imported here: which packages there are is asked before torch is loaded.
"""
