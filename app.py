"""The page: `python app.py`, which is also how a Hugging Face Space starts it."""

from __future__ import annotations

from eet_demo.commands.cli import main

if __name__ == "__main__":
    main()
