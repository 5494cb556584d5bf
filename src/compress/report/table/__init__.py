"""Tables: rows, columns, footnotes, and their text in five formats."""
