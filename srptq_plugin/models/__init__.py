"""Reference SR networks, and how a network and its checkpoint are loaded."""

from srptq_plugin.models.checkpoint import load_into, load_state
from srptq_plugin.models.edsr import EDSR
from srptq_plugin.models.loading import ENTRIES, FAMILIES, describe, load_model
from srptq_plugin.models.model_record import LoadedModel, ModelFamily, ModelRecord, Request, SRNetwork
from srptq_plugin.models.rdn import RDN
from srptq_plugin.models.rrdb import RRDB
from srptq_plugin.models.srgan import SRGANGenerator
from srptq_plugin.models.srresnet import SRResNet

__all__ = [
    "EDSR",
    "ENTRIES",
    "FAMILIES",
    "RDN",
    "RRDB",
    "LoadedModel",
    "ModelFamily",
    "ModelRecord",
    "Request",
    "SRGANGenerator",
    "SRNetwork",
    "SRResNet",
    "describe",
    "load_into",
    "load_model",
    "load_state",
]
