"""Tests of Boost Streams."""
