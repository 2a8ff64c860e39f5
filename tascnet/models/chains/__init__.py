"""What makes the chain of each network."""


def __getattr__(name: str) -> object:  # TEMPORARY
    if name != "textcnn_chain":
        raise AttributeError(name)
    import importlib

    return importlib.import_module("tascnet.models.chains.small").textcnn_chain
