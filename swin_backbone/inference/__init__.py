"""Reading images, predicting, and showing what was found."""
