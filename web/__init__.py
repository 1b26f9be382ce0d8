"""HTTP: views, authentication, body formats, intake and queries."""
