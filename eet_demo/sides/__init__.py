"""The lanes of a race behind one small Protocol: stock transformers, the engine, and a script for tests."""
