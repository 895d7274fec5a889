"""One module at a time, without a model or with a tiny one."""
