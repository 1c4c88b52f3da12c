"""The lifelong study: what increments gain, what they cost, and when they no longer do."""
