"""Any network as a chain of blocks.

One run of the network is written down call by call (`tracing`), brought into the operations of blocks
(`canonical`, `functions`, `known`, `simplify`), cut into blocks (`regions`, `grouping`), and compared with
the network (`check`).
"""

from tascnet.models.conversion.convert import Converted, convert

__all__ = ["Converted", "convert"]
