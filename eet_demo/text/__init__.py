"""Text and tokens: the tokenizer, chat templates, and the documents a race reads."""
