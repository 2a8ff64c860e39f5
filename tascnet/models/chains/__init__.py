"""One module for each family of backbones, and the function that makes each chain."""

from tascnet.models.chains.cifar import cifar_resnet_chain, cifar_resnet_keys
from tascnet.models.chains.densenet import densenet_chain
from tascnet.models.chains.digits import digits_cnn_chain
from tascnet.models.chains.mobilenet import mobilenet_chain
from tascnet.models.chains.resnet import resnet_chain
from tascnet.models.chains.text import textcnn_chain
from tascnet.models.chains.vgg import vgg_chain

__all__ = [
    "cifar_resnet_chain",
    "cifar_resnet_keys",
    "densenet_chain",
    "digits_cnn_chain",
    "mobilenet_chain",
    "resnet_chain",
    "textcnn_chain",
    "vgg_chain",
]
