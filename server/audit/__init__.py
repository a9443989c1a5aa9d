"""The audit trail as hash chains: their form, what verifies them, and the signed checkpoints over them."""
