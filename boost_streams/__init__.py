"""Boost Streams: durable, multi-tenant event analytics on PostgreSQL and Kafka."""

__version__ = "0.1.0"
