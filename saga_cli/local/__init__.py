"""The deployed stack on this machine: moto for the services, the real functions, no Docker."""
