"""Where rows of the tables come from: one module per kind of source; nothing here knows of Ray."""
