"""Build the object graph of each process from the settings. A process imports only its own file."""
