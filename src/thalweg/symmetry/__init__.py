"""How the minima of one network are related: channels to infinity."""

from thalweg.symmetry.channel_ends import Channel, ChannelEnd
from thalweg.symmetry.channel_network import ChannelNetwork, Merging
from thalweg.symmetry.channels import channel_resolver, limit_objective, resolve_channel, resolve_channels

__all__ = [
    "Channel",
    "ChannelEnd",
    "ChannelNetwork",
    "Merging",
    "channel_resolver",
    "limit_objective",
    "resolve_channel",
    "resolve_channels",
]
