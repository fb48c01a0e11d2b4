"""The predefined callbacks. They use only what a user's callback can use."""
