"""What is lost, and what must not be: real processes, stores and connections that die under load."""
