"""Top-ups: how a customer's money comes in.

`payment` has the words and rules, `desk` moves the money, `checkout` is Stripe's side, `chain` and `watch` the side of
USDT. What settles a payment is always read again from its source, never taken from a message.
"""
