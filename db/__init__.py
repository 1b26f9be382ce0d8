"""PostgreSQL and Redis: pools, one repository per table family, migrations."""
