"""Random weights of every family in every layout of keys that it reads."""

import re
from collections.abc import Callable, Mapping

from helpers.checkpoints import LAYOUTS, basicsr_state, esrgan_state
from helpers.fsrcnn_layouts import YJN870, fsrcnn_layout, keeps_gray
from srptq_plugin.models.bsrn import BSRN
from srptq_plugin.models.carn import CARN
from srptq_plugin.models.edsr import EDSR
from srptq_plugin.models.edsr_mlperf import MLPerfEDSR
from srptq_plugin.models.espcn import ESPCN
from srptq_plugin.models.imdn import IMDN
from srptq_plugin.models.model_record import State
from srptq_plugin.models.pan import PAN
from srptq_plugin.models.rdn import RDN
from srptq_plugin.models.rfdn import RFDN
from srptq_plugin.models.rlfn import RLFN
from srptq_plugin.models.rrdb import RRDB
from srptq_plugin.models.span import SPAN
from srptq_plugin.models.srgan import SRGANGenerator
from srptq_plugin.models.srresnet import SRResNet
from srptq_plugin.models.srvgg import SRVGG


def bytedance(state: State) -> State:
    """Rename the keys of an RLFN of the challenge as bytedance has them."""
    state = {re.sub(r"^B(\d+)", r"block_\1", key): value for key, value in state.items()}
    return {key.replace("fea_conv", "conv_1").replace("LR_conv", "conv_2"): value for key, value in state.items()}


def bsrn(*, small: bool) -> State:
    """Return the weights of a BSRN that reads four copies of the image."""
    state = BSRN(2, features=16, blocks=1, hidden=4, small=small).state_dict()
    return {**state, "fea_conv.pw.weight": state["fea_conv.pw.weight"].repeat(1, 4, 1, 1)}


def carn(*, light: bool) -> State:
    """Return the weights of a CARN for one scale."""
    state = CARN(3, 8, groups=4 if light else 1, light=light).state_dict()
    return {key.replace("upsample.", "upsample.up.body."): value for key, value in state.items()}


BASICSR = {"conv_first": 8, "conv_after_body": 8, "upsample.0": 32, "upsample.2": 32, "conv_last": 3}
CHECKPOINTS: Mapping[str, tuple[str, Callable[[], State]]] = {
    "EDSR": ("edsr", EDSR(upscale=2, features=4, blocks=1).state_dict),
    "EDSR x3": ("edsr", EDSR(upscale=3, features=32, blocks=3).state_dict),
    "EDSR of 16 narrow blocks": ("edsr", EDSR(upscale=2, features=4, blocks=16).state_dict),
    "EDSR in BasicSR": ("edsr", lambda: basicsr_state(3, BASICSR, 8)),
    "small EDSR": ("edsr-mini", EDSR(upscale=2, features=32, blocks=16).state_dict),
    "SRResNet": ("srresnet", SRResNet(2, features=4, blocks=1).state_dict),
    "SRResNet x4": ("srresnet", SRResNet(4, features=4, blocks=2).state_dict),
    "SRGAN": ("srgan", SRGANGenerator(4, features=4, blocks=1).state_dict),
    "RDN": ("rdn", RDN(2, features=4, growth=4, blocks=1, layers=1).state_dict),
    "SRVGG": ("srvgg", SRVGG(2, features=4, blocks=1).state_dict),
    "IMDN": ("imdn", IMDN(2, features=16, blocks=2).state_dict),
    "RFDN": ("rfdn", RFDN(2, features=6, blocks=2, kept=3, hidden=2).state_dict),
    "RLFN": ("rlfn", RLFN(2, features=6, blocks=2, inner=5, hidden=2).state_dict),
    "RLFN of bytedance": ("rlfn", lambda: bytedance(RLFN(2, features=6, blocks=2, inner=5, hidden=2).state_dict())),
    "SPAN": ("span", SPAN(2, features=4, blocks=2, normalized=False).state_dict),
    "PAN": ("pan", PAN(4, features=4, blocks=1, inner=2, enlarged=2).state_dict),
    "BSRN": ("bsrn", lambda: bsrn(small=False)),
    "BSRN-S": ("bsrn", lambda: bsrn(small=True)),
    "CARN": ("carn", lambda: carn(light=False)),
    "CARN-M": ("carn", lambda: carn(light=True)),
    "EDSR of MLPerf": ("edsr-mlperf", MLPerfEDSR(2, features=4, blocks=1).state_dict),
    "ESPCN": ("espcn", ESPCN(3, features=4, inner=4).state_dict),
    "FSRCNN": ("fsrcnn", lambda: fsrcnn_layout(keeps_gray(2), YJN870, "last_part")),
    "RRDB x2": ("rrdb", RRDB(2, features=4, growth=4, blocks=1).state_dict),
    **{
        layout: ("rrdb", lambda rename=rename: {rename(key): value for key, value in esrgan_state().items()})
        for layout, rename in LAYOUTS.items()
    },
}
"""The family and the weights of each checkpoint."""
