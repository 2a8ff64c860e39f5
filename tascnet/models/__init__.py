"""Networks as chains of blocks: pre-trained weights, heads, and saved models.

Words: a chain is a flat, named `nn.Sequential`; a block is one of its items and maps one tensor to one
tensor; the head is what follows the features, and its last block is the classifier. A grown head stands on
the pre-trained classifier, the kept layer.
"""

# Without torch: the command line imports these.
from tascnet.models.info import ModelInfo, with_info
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.text import TextPreprocessing

__all__ = ["ModelInfo", "Preprocessing", "TextPreprocessing", "with_info"]
