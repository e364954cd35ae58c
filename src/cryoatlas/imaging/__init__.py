"""Image formation, equations 1–3 of the paper: volume → slice → shift → CTF → noise."""
