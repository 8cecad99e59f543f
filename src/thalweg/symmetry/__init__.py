"""How the minima of one network are related: channels to infinity, units taken several times."""

from thalweg.symmetry.channel_ends import Channel, ChannelEnd
from thalweg.symmetry.channel_network import ChannelNetwork, Merging
from thalweg.symmetry.channels import channel_resolver, limit_objective, resolve_channel, resolve_channels
from thalweg.symmetry.dense_module import DenseModule
from thalweg.symmetry.duplication import Duplication, Signs, duplicate

__all__ = [
    "Channel",
    "ChannelEnd",
    "ChannelNetwork",
    "DenseModule",
    "Duplication",
    "Merging",
    "Signs",
    "channel_resolver",
    "duplicate",
    "limit_objective",
    "resolve_channel",
    "resolve_channels",
]
