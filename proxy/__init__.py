"""statecar: state for stateless chat-completions servers."""

__version__ = "0.1.0"
