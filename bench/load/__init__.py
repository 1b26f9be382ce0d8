"""The load generators: compiled programs, their scripts, and how their answers are read."""
