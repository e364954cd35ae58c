"""What a result is worth, and how it looks: measures, pictures, the report."""
