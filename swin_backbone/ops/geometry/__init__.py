"""Where tokens, windows and pixels lie: sizes and places, and no weights."""
