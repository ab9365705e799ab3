"""What billing counts for Prometheus. Registered in the registry that it is given, so tests may make many."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class Waiting:
    """What waits, in the whole system: the same in every replica, so take the maximum over them."""

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self.usage_lag = Gauge(
            "tollbridge_billing_usage_lag",
            "Messages of usage on the bus that no replica has applied",
            registry=registry,
        )
        self.outbox_oldest = Gauge(
            "tollbridge_billing_outbox_oldest_seconds",
            "For how long the oldest transfer waits that has not left on LEDGER",
            registry=registry,
        )
        self.stream_bytes, self.stream_max_bytes, self.stream_max_age, self.stream_reach = (
            Gauge(f"tollbridge_billing_stream_{name}", what, ("stream",), registry=registry)
            for name, what in (
                ("bytes", "What the stream keeps"),
                ("max_bytes", "What it keeps at most, on each server; then it drops its oldest"),
                ("max_age_seconds", "How long it is to keep a message"),
                ("reach_seconds", "How old its oldest message is"),
            )
        )
        self.open_letters = Gauge(
            "tollbridge_billing_open_dead_letters",
            "Dead letters that nobody has resolved",
            registry=registry,
        )
        self.holds = Gauge("tollbridge_billing_holds", "Open holds", ("kind",), registry=registry)
        self.held = Gauge(
            "tollbridge_billing_held_nano_usd",
            "What they hold",
            ("kind",),
            registry=registry,
        )


class Figures:
    """The service's metrics."""

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self.events_applied = Counter(
            "tollbridge_billing_events_applied", "Usage events committed, duplicates included", registry=registry
        )
        self.events_waiting = Counter(
            "tollbridge_billing_events_waiting", "Times an event had to wait for its price", registry=registry
        )
        self.dead_letters = Counter(
            "tollbridge_billing_dead_letters", "Events set aside for an operator", registry=registry
        )
        self.second_charges = Counter(
            "tollbridge_billing_second_charges",
            "Charges that were not made because another run of the request was charged: the house bears their cost",
            registry=registry,
        )
        self.grants = Counter(
            "tollbridge_billing_grants", "Holds asked for, by outcome", ("outcome",), registry=registry
        )
        self.grant_batches = Counter(
            "tollbridge_billing_grant_batches", "Transactions that granted holds", registry=registry
        )
        self.holds_expired = Counter(
            "tollbridge_billing_holds_expired",
            "Holds whose time ran out: lapsed, kept by dead letters, or released with something still held",
            ("how",),
            registry=registry,
        )
        self.leases_refused = Counter(
            "tollbridge_billing_leases_refused",
            "Times a statement said of a lease what can't be, or the database refused to change one; more is an alert",
            registry=registry,
        )
        self.transfers_published = Counter(
            "tollbridge_billing_transfers_published", "Transfers that left on LEDGER", registry=registry
        )
        self.payments = Counter(
            "tollbridge_billing_payments",
            "Money in and back by method; mismatched, unmatched and dispute_won is what an operator must look at",
            ("method", "outcome"),
            registry=registry,
        )
        self.proof_differences = Gauge(
            "tollbridge_billing_proof_differences",
            "Differences that the newest recorded proof found; anything but 0 is an alert",
            ("kind", "subject"),
            registry=registry,
        )
        self.proof_made = Gauge(
            "tollbridge_billing_proof_made_seconds",
            "When the newest proof was recorded; older than two days is an alert",
            ("kind", "subject"),
            registry=registry,
        )
        self.charged = Counter(
            "tollbridge_billing_charged_nano_usd", "Charges committed to the ledger", registry=registry
        )
        self.waiting = Waiting(registry=registry)
        self.config_loaded = Gauge(
            "tollbridge_billing_config_loaded_seconds", "When the running config was loaded", registry=registry
        )
