"""The paper's tables from real runs: rows, their records, tables, pictures."""
