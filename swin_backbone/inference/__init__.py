"""What an image goes through before and after the model: reading, features, export, pictures."""
