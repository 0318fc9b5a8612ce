"""The stages that render the procedural city to files and tables."""
