"""The rows of the table, a file per group; `ALL` has them in the order of the table."""
