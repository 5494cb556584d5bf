"""Tables: rows, columns, footnotes, units and formats."""
