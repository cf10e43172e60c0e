"""Complete sagas as a user would write them, with the small services that they call."""
