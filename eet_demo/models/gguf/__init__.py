"""GGUF files: what they hold, and how one becomes a Hugging Face folder."""
