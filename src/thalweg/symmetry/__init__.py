"""How the minima of one network are related: channels to infinity, units taken several times."""

from thalweg.symmetry.channel_bottom import channel_bottom
from thalweg.symmetry.channel_certificate import ChannelToInfinity
from thalweg.symmetry.channel_ends import Channel, ChannelEnd
from thalweg.symmetry.channel_network import ChannelNetwork, Merging
from thalweg.symmetry.channel_path import ChannelPath, ChannelRates, channel_path, channel_rates, jump
from thalweg.symmetry.channels import channel_resolver, limit_objective, resolve_channel, resolve_channels
from thalweg.symmetry.dense_module import DenseModule
from thalweg.symmetry.duplication import Duplication, Signs, duplicate

__all__ = [
    "Channel",
    "ChannelEnd",
    "ChannelNetwork",
    "ChannelPath",
    "ChannelRates",
    "ChannelToInfinity",
    "DenseModule",
    "Duplication",
    "Merging",
    "Signs",
    "channel_bottom",
    "channel_path",
    "channel_rates",
    "channel_resolver",
    "duplicate",
    "jump",
    "limit_objective",
    "resolve_channel",
    "resolve_channels",
]
