"""The published data sets of images, by name."""

from collections.abc import Mapping

from tascnet.data.caltech101 import CALTECH101
from tascnet.data.caltech256 import CALTECH256
from tascnet.data.cifar10 import CIFAR10
from tascnet.data.oxford_flowers102 import OXFORD_FLOWERS102
from tascnet.data.published import PublishedSet
from tascnet.data.stanford_dogs import STANFORD_DOGS

CATALOGUE: Mapping[str, PublishedSet] = {
    published.name: published
    for published in (CALTECH101, CALTECH256, STANFORD_DOGS, CIFAR10, OXFORD_FLOWERS102)
}
