"""``saga demo``: five sagas, told step by step as they run."""
