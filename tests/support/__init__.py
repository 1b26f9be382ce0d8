"""What several tests need: servers, databases, projects, and waiting with a deadline."""
