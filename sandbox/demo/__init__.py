"""`sandbox demo`: the whole way once, on real data, told as a story."""
