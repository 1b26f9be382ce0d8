"""Live views kept in Faust tables: approximate, recent, fast."""
