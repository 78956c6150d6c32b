"""The Hugging Face Hub: files that are fetched by name, and folders that are published under one."""
