"""The sans-I/O core: Responses requests to chat bodies, chat chunks to Responses events."""
