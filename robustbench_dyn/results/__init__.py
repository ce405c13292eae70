"""What is known of each example, the row made of it, and the store that keeps both."""
