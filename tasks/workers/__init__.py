"""What runs on workers beside tasks: calls, and rounds that need no client."""
