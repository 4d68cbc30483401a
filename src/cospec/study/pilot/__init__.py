"""A study on the user's own prompts that ends in go or no-go: what `cospec pilot` does."""
