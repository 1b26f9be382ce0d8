"""Streams: dispatcher, handler agents, settlement, sweeper, aggregator."""
