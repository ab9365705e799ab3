"""SQL of `ledger replay`: the whole live ledger in one snapshot."""

import psycopg

from services.billing.proof.replay import Live

_TRANSFERS = """
    SELECT t.id, t.debit, t.credit, t.amount, t.kind, t.event_id, t.leg,
        (extract(epoch FROM t.created_at) * 1000000)::bigint, o.id IS NOT NULL
    FROM billing.transfers t LEFT JOIN (SELECT unnest(transfer_ids) AS id FROM billing.outbox) o ON o.id = t.id
"""
_BALANCES = "SELECT customer_id, posted, version FROM billing.ledger_accounts"
_CHARGES = "SELECT request_id, charge FROM billing.usage_events WHERE kind = 'charge'"
_DEAD = "SELECT request_id FROM billing.dead_letters WHERE request_id IS NOT NULL"


def read_live(url: str) -> Live:
    """Reads the ledger; before the streams, so that what it has sent is on them. Raises psycopg.Error."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        transfers = connection.execute(_TRANSFERS).fetchall()
        return Live(
            moved={row[0]: (row[1], row[2], row[3], row[4], row[5], row[6]) for row in transfers},
            made_at_us={row[0]: row[7] for row in transfers},
            leaving={row[0] for row in transfers if row[8]},
            balances={row[0]: (row[1], row[2]) for row in connection.execute(_BALANCES).fetchall()},
            charges=dict(connection.execute(_CHARGES).fetchall()),
            dead={row[0] for row in connection.execute(_DEAD).fetchall()},
        )
