"""Twenty lessons beside the code: `pytest lessons` runs them, README.md lists them."""
