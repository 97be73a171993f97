"""The HTTP edge: thin and typed. Parse, hand on, frame what comes back."""
