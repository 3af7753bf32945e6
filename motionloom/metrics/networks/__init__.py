"""The networks that published metrics look through: one architecture a file, and the table of where weights come from."""
