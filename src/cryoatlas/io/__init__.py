"""Files ↔ arrays and tables, with no physics."""
