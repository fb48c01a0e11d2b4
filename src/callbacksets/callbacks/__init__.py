"""The predefined callbacks. They use nothing that a user's callback could not."""
