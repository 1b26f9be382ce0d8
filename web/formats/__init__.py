"""Request bodies of each SDK, turned into validated events."""
