"""What the SQL drivers share: the schema, its migrations, and the way between rows and records."""
