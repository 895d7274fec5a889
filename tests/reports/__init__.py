"""Public bug reports by others, each as a small input: what happened to them must not happen here."""
