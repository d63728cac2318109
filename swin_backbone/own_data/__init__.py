"""A folder of one's own data: what is in it, and a config that trains on it."""
