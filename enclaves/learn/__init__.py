"""Training inside the enclave: rows become bounded integers, learners see them only through noised sums."""
