"""The fault suite: what can fail is made to fail under load, and one oracle says what became of every event."""
