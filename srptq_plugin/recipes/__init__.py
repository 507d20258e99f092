"""What a user asks for: the schema, the files, the values, and all of it held against what is installed."""
