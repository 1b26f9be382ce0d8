"""Servers for one machine: PostgreSQL, Redis and a Kafka broker without Docker and without root.

Only ``boost dev`` and the tests import this package (the ``embedded`` extra); a production worker never does.
"""
