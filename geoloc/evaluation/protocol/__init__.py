"""What a benchmark asks: protocols by name, which items are right, checks that make a figure worth printing."""
