"""Multiply-adds of operators and networks: `count` and `network`; `networks` has the layers, `text` the tables."""

from .counts import PASSES, Count, LayerCount, NetworkCount, count, layer_count, network, operators

__all__ = ["PASSES", "Count", "LayerCount", "NetworkCount", "count", "layer_count", "network", "operators"]
