"""What customers are told of each charge and of all of them: signed receipts, the request log, usage reports."""
