"""The wire: words, strict JSON, signed envelopes, messages and topics."""
