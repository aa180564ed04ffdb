"""What a client does with its data, what the server does with a mean."""
