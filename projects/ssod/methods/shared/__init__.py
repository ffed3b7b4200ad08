"""Parts that methods of several papers are built from."""
