"""What is remembered between records: outputs already computed, and the passages that answers come from."""
