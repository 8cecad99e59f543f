"""How the minima of one network are related: channels to infinity."""

from thalweg.symmetry.channel_network import ChannelNetwork, Pairs
from thalweg.symmetry.channels import Channel, ChannelEnd, channel_resolver, resolve_channel, resolve_channels

__all__ = [
    "Channel",
    "ChannelEnd",
    "ChannelNetwork",
    "Pairs",
    "channel_resolver",
    "resolve_channel",
    "resolve_channels",
]
