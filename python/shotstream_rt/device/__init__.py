"""Streams, events and copies between host and device."""
